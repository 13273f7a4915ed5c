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
// before the request is sent, because its event may arrive before its answer. The zero value is ready for use.
type expectations struct {
	mu    sync.Mutex
	byKey map[string]*expectation
}

type expectation struct {
	creations int
	deletions map[types.UID]bool
	until     time.Time
}

func (e *expectations) creations(key string, n int, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(key, now).creations += n
}

func (e *expectations) deletions(key string, pods []*corev1.Pod, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of(key, now)
	for _, pod := range pods {
		x.deletions[pod.UID] = true
	}
}

// of returns the key's entry and gives it another full timeout. The caller holds the lock.
func (e *expectations) of(key string, now time.Time) *expectation {
	if e.byKey == nil {
		e.byKey = map[string]*expectation{}
	}
	if e.byKey[key] == nil {
		e.byKey[key] = &expectation{deletions: map[types.UID]bool{}}
	}
	e.byKey[key].until = now.Add(expectationTimeout)
	return e.byKey[key]
}

// came tells of a pod that has been seen, or whose creation has failed.
func (e *expectations) came(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byKey[key]; x != nil && x.creations > 0 {
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

// settled says whether all has been seen that the key's controller has done. If not, wait is how long to go on hoping.
func (e *expectations) settled(key string, now time.Time) (ok bool, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.byKey[key]
	if x == nil {
		return true, 0
	}
	wait = x.until.Sub(now)
	if wait > 0 && (x.creations > 0 || len(x.deletions) > 0) {
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
