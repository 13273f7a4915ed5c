package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// A node that runs out of memory or disk ends pods before the kernel does, one at a time, those first that use more than they
// asked for. https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/

const (
	lookOften     = 2 * time.Second  // When a threshold is near or crossed.
	lookSeldom    = 20 * time.Second // Otherwise. The kernel tells of memory sooner.
	evictionTime  = 30 * time.Second // A pod that is evicted may take so long before another is.
	criticalPrio  = 2_000_000_000    // System priorities begin here: such pods stay.
	evictionFirst = "The node was low on resource: %v. Threshold quantity: %v, available: %v. "
)

// pressure is what the node is short of, and who has to go for it.
type pressure struct {
	thresholds []Threshold
	transition time.Duration

	mu       sync.Mutex
	met      map[v1.NodeConditionType]time.Time // When a threshold was last seen crossed.
	held     int                                // How many conditions held when that was seen last.
	evicted  map[string]string                  // By pod UID: why.
	evicting string                             // The last of them, until all that it had is given back.
	since    time.Time                          // When it was.
	news     chan struct{}                      // Something has changed that the API is to know of.
}

func newPressure(c Config) *pressure {
	return &pressure{
		thresholds: c.EvictionHard, transition: c.EvictionPause,
		met: map[v1.NodeConditionType]time.Time{}, evicted: map[string]string{}, news: make(chan struct{}, 1),
	}
}

// conditions are those that hold: a condition lasts some time longer than what it tells of, for what comes and goes.
func (p *pressure) conditions(now time.Time) map[v1.NodeConditionType]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	hold := map[v1.NodeConditionType]bool{}
	for kind, last := range p.met {
		if now.Sub(last) < p.transition {
			hold[kind] = true
		}
	}
	return hold
}

// see notes which thresholds are crossed, and says whether a condition has come or gone since it was asked last.
func (p *pressure) see(crossed []Threshold, now time.Time) (changed bool) {
	p.mu.Lock()
	for _, t := range crossed {
		p.met[t.Signal.condition()] = now
	}
	p.mu.Unlock()
	hold := len(p.conditions(now))
	p.mu.Lock()
	defer p.mu.Unlock()
	changed, p.held = hold != p.held, hold
	return changed
}

// why is what a pod was evicted for, "" if it was not.
func (p *pressure) why(uid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.evicted[uid]
}

func (p *pressure) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.evicted, uid)
	if p.evicting == uid {
		p.evicting = ""
	}
}

// relieved notes that an evicted pod has given back all that it had.
func (p *pressure) relieved(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.evicting == uid {
		p.evicting = ""
	}
}

// refuses says why a pod that has not started yet, and is not critical, must not. https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-conditions
func (p *pressure) refuses(pod *v1.Pod, now time.Time) string {
	hold := p.conditions(now)
	if len(hold) == 0 {
		return ""
	}
	if hold[v1.NodeMemoryPressure] && len(hold) == 1 {
		taint := v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qosClass(pod) != v1.PodQOSBestEffort || corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, true) {
			return ""
		}
	}
	var names []string
	for kind := range hold {
		names = append(names, string(kind))
	}
	slices.Sort(names)
	return fmt.Sprintf("The node had condition: [%s]. ", strings.Join(names, ", "))
}

// tellNode has the Node written now.
func (a *Agent) tellNode() {
	select {
	case a.pressure.news <- struct{}{}:
	default:
	}
}

// critical pods are what the cluster, or the node, cannot do without.
func (a *Agent) critical(pod *v1.Pod) bool {
	return a.isStatic(pod) || pod.Spec.Priority != nil && *pod.Spec.Priority >= criticalPrio
}

// watchPressure looks at memory and disk whenever the kernel says that tasks wait for memory, and now and then.
func (a *Agent) watchPressure(ctx context.Context) {
	stalled := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	if p := memoryStalls(); p != nil {
		wg.Go(func() {
			p.follow(ctx.Done(), func() {
				select {
				case stalled <- struct{}{}:
				default:
				}
			})
		})
	}
	for ctx.Err() == nil {
		wait := lookSeldom
		if a.relieve(ctx) {
			wait = lookOften
		}
		select {
		case <-ctx.Done():
		case <-stalled:
		case <-time.After(wait):
		}
	}
}

// relieve evicts a pod if the node is short of something, and says whether to look again soon.
func (a *Agent) relieve(ctx context.Context) (near bool) {
	host, err := observe(a.DataDir, a.images)
	if err != nil {
		slog.Warn("the node's memory and disk cannot be measured", "err", err)
		return false
	}
	now := time.Now()
	crossed, near := met(a.pressure.thresholds, host)
	if a.pressure.see(crossed, now) {
		a.tellNode()
	}
	crossed = slices.DeleteFunc(crossed, func(t Threshold) bool { return t.Signal.condition() == v1.NodePIDPressure }) // Nobody knows whom to blame.
	if len(crossed) == 0 || a.pressure.busy(now) {
		return near
	}
	first := crossed[0]
	if i := slices.IndexFunc(crossed, func(t Threshold) bool { return t.Signal == memoryAvailable }); i >= 0 {
		first = crossed[i] // Without memory nothing goes on, the eviction neither.
	}
	if first.Signal != memoryAvailable { // What nobody needs goes before pods do.
		freed, err := a.freeDisk(ctx, first.Signal, now)
		if err != nil {
			slog.Warn("the disk cannot be freed of what nobody needs", "err", err)
		}
		if freed {
			return true
		}
	}
	return a.evictFor(ctx, first, host[first.Signal])
}

// busy says that the last pod that was evicted is still on its way out.
func (p *pressure) busy(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.evicting != "" && now.Sub(p.since) <= evictionTime
}

// freeDisk deletes what nobody needs: the containers of pods that are over or, where there are none, unused images. It says whether
// there was any.
func (a *Agent) freeDisk(ctx context.Context, s Signal, now time.Time) (freed bool, err error) {
	all, err := a.runtime.Containers(ctx)
	if err != nil {
		return false, fmt.Errorf("list containers: %w", err)
	}
	byPod := map[string][]Container{}
	for _, c := range all {
		byPod[c.Pod.UID] = append(byPod[c.Pod.UID], c)
	}
	for uid, containers := range byPod {
		pod := a.pod(uid)
		if pod == nil || pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed ||
			slices.ContainsFunc(containers, func(c Container) bool { return c.State != Exited }) {
			continue
		}
		if err := a.removeContents(ctx, pod, containers); err != nil {
			return freed, err
		}
		freed = true
	}
	if freed || a.apart && !s.ofImages() {
		return freed, nil
	}
	return a.deleteUnusedImages(ctx, now)
}

// candidate is a pod that may be evicted, with what it uses of what is short.
type candidate struct {
	pod        *v1.Pod
	used       int64
	request    int64
	containers []Container
	each       map[string]int64 // By container name.
}

// evictFor evicts the pod that has to go first, and says whether there was one.
func (a *Agent) evictFor(ctx context.Context, t Threshold, have stock) bool {
	candidates, err := a.candidates(ctx, t.Signal)
	if err != nil || len(candidates) == 0 {
		slog.Warn("the node is short of something, and there is no pod to evict", "what", t.Signal, "available", have.available, "err", err)
		return false
	}
	rank(candidates)
	c := candidates[0]
	quantity := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	why := fmt.Sprintf(evictionFirst, t.Signal.resource(), quantity(t.of(have.capacity)), quantity(have.available))
	for _, container := range c.pod.Spec.Containers {
		request := container.Resources.Requests[t.Signal.resource()]
		if used := c.each[container.Name]; used > request.Value() {
			why += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ", container.Name, kibi(used), request.String(), t.Signal.resource())
		}
	}
	slog.Warn("evicting a pod", "pod", c.pod.Namespace+"/"+c.pod.Name, "why", why)
	uid := string(c.pod.UID)
	a.pressure.mu.Lock()
	a.pressure.evicted[uid], a.pressure.evicting, a.pressure.since = why, uid, time.Now()
	a.pressure.mu.Unlock()
	a.loop.Add(uid)
	return true
}

// kibi is an amount of bytes as the kubelet tells it.
func kibi(bytes int64) string { return fmt.Sprintf("%dKi", bytes/1024) }

// candidates are the pods that run here and may be evicted.
func (a *Agent) candidates(ctx context.Context, s Signal) ([]candidate, error) {
	pods, _, err := a.residents(ctx)
	if err != nil {
		return nil, err
	}
	var all []candidate
	for _, pod := range pods {
		if a.critical(pod.Pod) || over(pod.Pod) || a.pressure.why(string(pod.UID)) != "" {
			continue
		}
		c := candidate{pod: pod.Pod, containers: pod.containers, each: map[string]int64{}}
		requests := podresource.PodRequests(pod.Pod, podresource.PodResourcesOptions{})
		request := requests[s.resource()]
		c.request = request.Value()
		for _, container := range pod.containers {
			used := int64(0)
			if s == memoryAvailable {
				if u, err := a.usages.fs.Usage(container.Cgroup); err == nil {
					used = int64(u.WorkingSet)
				}
			} else {
				used = a.writtenTo(ctx, s, pod, container.Name)
			}
			c.each[container.Name] = used
			c.used += used
		}
		if s != memoryAvailable && (!s.ofImages() || !a.apart) {
			c.used += a.volumesWritten(pod.Pod)
		}
		all = append(all, c)
	}
	return all, nil
}

// writtenTo is how much a container has written to the disk that a signal is of: its layers are where the images are.
func (a *Agent) writtenTo(ctx context.Context, s Signal, pod resident, name string) (used int64) {
	if !s.ofImages() || !a.apart {
		used += a.logged(pod.Pod, name)
	}
	if s.ofImages() || !a.apart {
		used += a.layered(ctx, name, pod.containers)
	}
	return used
}

// rank puts first who goes first: who uses more than it asked for; of those who matters less; of those who uses the most beyond.
func rank(all []candidate) {
	exceeds := func(c candidate) int {
		if c.used > c.request {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(exceeds(a), exceeds(b)), cmp.Compare(corev1.PodPriority(a.pod), corev1.PodPriority(b.pod)), cmp.Compare(b.used-b.request, a.used-a.request))
	})
}
