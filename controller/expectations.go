package controller

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// expectationTimeout is how long to wait for a pod that was created or deleted to show in the cache. It only matters when
// a watch breaks and the pod came and went in the gap; until then it is better to do nothing than to do it twice.
const expectationTimeout = 5 * time.Minute

// expectations counts, for each key, what its controller has done and the cache does not show yet. The count is raised
// before the request is sent, because its event may arrive before its answer. What is expected is expected of one owner: when
// another object comes by the key's name, it begins with nothing. The zero value is ready for use.
type expectations struct {
	mu    sync.Mutex
	byKey map[string]*expectation
}

type expectation struct {
	owner     types.UID
	creations int
	deletions map[types.UID]bool
	until     time.Time
}

func (e *expectations) creations(key string, owner types.UID, n int, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(key, owner, now).creations += n
}

func (e *expectations) deletions(key string, owner types.UID, pods []*corev1.Pod, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of(key, owner, now)
	for _, pod := range pods {
		x.deletions[pod.UID] = true
	}
}

// of returns the key's entry and gives it another full timeout. The caller holds the lock.
func (e *expectations) of(key string, owner types.UID, now time.Time) *expectation {
	if e.byKey == nil {
		e.byKey = map[string]*expectation{}
	}
	if x := e.byKey[key]; x == nil || x.owner != owner {
		e.byKey[key] = &expectation{owner: owner, deletions: map[types.UID]bool{}}
	}
	e.byKey[key].until = now.Add(expectationTimeout)
	return e.byKey[key]
}

// came tells of a pod that has been seen, or whose creation has failed.
func (e *expectations) came(key string, owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byKey[key]; x != nil && x.owner == owner && x.creations > 0 {
		x.creations--
	}
}

// gone tells of a pod that is seen to be leaving, or whose deletion has failed.
func (e *expectations) gone(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byKey[key]; x != nil {
		delete(x.deletions, uid)
	}
}

// settled says whether all has been seen that was done for the owner. If not, wait is how long to go on hoping.
func (e *expectations) settled(key string, owner types.UID, now time.Time) (ok bool, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.byKey[key]
	if x == nil {
		return true, 0
	}
	wait = x.until.Sub(now)
	if wait > 0 && x.owner == owner && (x.creations > 0 || len(x.deletions) > 0) {
		return false, wait
	}
	delete(e.byKey, key)
	return true, 0
}

// forget drops what is expected of a key that is gone.
func (e *expectations) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byKey, key)
}
