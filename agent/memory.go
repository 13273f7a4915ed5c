package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// memory is what the agent knows of a pod and could not read again: all of it may be lost at any time, at the price of a
// try too early or a signal too many. Only the pod's own reconcile touches it, and that never runs twice at once.
type memory struct {
	since     time.Time       // When the pod was first heard of.
	running   bool            // It has been counted how long it took to run.
	told      map[string]told // See seen.
	trouble   map[string]trouble
	silent    map[string]time.Time
	messages  map[string]string
	ready     *ready  // nil until the pod's network is set up.
	torn      bool    // The network of a pod that is over is gone.
	cleaned   bool    // All that the pod had on this node is gone.
	written   *v1.Pod // As the API answered the agent's last status write.
	measured  measured
	due       time.Time // When the volumes have to be looked at again; zero: when something changes.
	parting   time.Time // When the end of the pod was first seen while its containers ran.
	served    bool      // Requests were still sent to them then,
	left      time.Time // and from then on no more.
	parted    bool      // They may be stopped.
	judged    bool      // Whether the node can have the pod: it was asked once,
	refused   *failure  // and this is why not.
	complaint string    // The last Event about network or volumes, so as not to repeat it at each try.

	allotment
}

// memories holds the memory of each pod, by UID.
type memories struct {
	mu       sync.Mutex
	pods     map[string]*memory
	deferred map[string]bool // Those that wait for room to grow.
}

func (m *memories) of(uid string) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods == nil {
		m.pods = map[string]*memory{}
	}
	if m.pods[uid] == nil {
		m.pods[uid] = &memory{
			since: time.Now(), told: map[string]told{}, trouble: map[string]trouble{}, messages: map[string]string{}, silent: map[string]time.Time{},
		}
	}
	return m.pods[uid]
}

func (m *memories) forget(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	delete(m.deferred, uid)
}

// setDeferred notes whether a pod waits for room to grow.
func (m *memories) setDeferred(uid string, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !is:
		delete(m.deferred, uid)
	case m.deferred == nil:
		m.deferred = map[string]bool{uid: true}
	default:
		m.deferred[uid] = true
	}
}

// allDeferred lists the pods that do.
func (m *memories) allDeferred() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.deferred))
}

// newest is the pod as the informer has it or, if that lags behind, as the agent's own last write left it.
func (m *memory) newest(pod *v1.Pod) *v1.Pod {
	if m.written == nil {
		return pod
	}
	if order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, m.written.ResourceVersion); err == nil && order < 0 {
		return m.written
	}
	return pod
}

// retry remembers that a start came to nothing. The delay grows with each time in a row.
func (m *memory) retry(container, reason, message string, now time.Time, longest time.Duration) {
	t := trouble{reason: reason, message: message, at: now, delay: firstBackoff}
	if was, ok := m.trouble[container]; ok && was.reason == reason {
		t.delay = min(2*was.delay, longest)
	}
	m.trouble[container] = t
}
