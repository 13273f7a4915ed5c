// Package scheduler chooses a node for each pod that has none, and binds it there.
//
// It works in three steps, for pods of a higher priority first. Filters say on which nodes the pod can run at all and, for the
// others, why not. Scores rank those that are left. Then the pod is bound through the API, and the node's agent takes over. Filters and scores are
// pure functions of the pod and what is known of the nodes (filter.go, score.go, affinity.go, spread.go); what is known
// is kept up to date by events (cache.go) and counts a pod from the moment that its node is chosen, so that the next
// choice need not wait for the first one's write. A pod that fits nowhere waits until something changes that might make
// it fit. When nothing changes, nothing runs.
//
// A pod with volumes that have to be bound or made first keeps its place on the node meanwhile (volumes.go).
//
// In Kubernetes: kube-scheduler. Left out: preemption, the capacity of storage, resource claims (a pod with one
// stays pending, with an Event that names the field), the scores for preferred pod affinity and topology spread, profiles,
// extenders and plugins.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"

	"skiff/reconcile"
)

// DefaultName is the scheduler that a pod asks for if it asks for none.
const DefaultName = corev1.DefaultSchedulerName

// workers bounds how many bindings are under way at once. Choosing is done one at a time, in order; the writes overlap.
const workers = 16

// Config is what the scheduler needs to know besides what the API says.
type Config struct {
	// Name is the spec.schedulerName of the pods that are this scheduler's, and the source of its Events. Empty means
	// [DefaultName].
	Name string
}

// Scheduler binds pods to nodes. Build it with [New].
type Scheduler struct {
	client     kubernetes.Interface
	name       string
	loop       *reconcile.Loop // Chooses.
	acts       *reconcile.Loop // Does what was chosen.
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	storage    storage
	byClaim    cache.Indexer // Of pods.
	synced     []cache.DoneChecker
	writer     *reconcile.Events
	events     record.EventRecorder

	mu           sync.Mutex // Held while choosing, and by what changes what is known.
	known        cluster
	reservations map[types.UID]reservation // Of pods that are counted on a node and wait for their volumes.
	misfit       map[string]misfit         // By key of the pod: those that fit nowhere at present.
	decided      map[string]decision       // By key of the pod: what is still to be done.
}

// misfit is a pod that waits until something changes.
type misfit struct {
	neighbourly bool // It matters to it who its neighbours are.
	priority    int32
}

// decision is where a pod goes, or why nowhere.
type decision struct {
	pod     *corev1.Pod
	node    *corev1.Node
	volumes podVolumes
	failure string
	err     error
}

// none says that there is nothing to be done: the pod is counted on a node already, and its binding under way.
func (d *decision) none() bool { return d.node == nil && d.failure == "" && d.err == nil }

// New builds a scheduler. It asks the factory for the informers that it needs, so start the factory afterwards.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, config Config) (*Scheduler, error) {
	if config.Name == "" {
		config.Name = DefaultName
	}
	core := factory.Core().V1()
	s := &Scheduler{
		client:       client,
		name:         config.Name,
		pods:         core.Pods().Lister(),
		namespaces:   core.Namespaces().Lister(),
		storage:      newStorage(factory),
		byClaim:      core.Pods().Informer().GetIndexer(),
		writer:       reconcile.NewEvents(client),
		known:        newCluster(),
		reservations: map[types.UID]reservation{},
		misfit:       map[string]misfit{},
		decided:      map[string]decision{},
	}
	s.events = s.writer.Recorder(s.name)
	s.loop = reconcile.NewOrdered("scheduler", &byPriority{priority: s.priorityOf}, s.decide)
	s.acts = reconcile.New("scheduler_bind", s.Reconcile)
	if err := core.Pods().Informer().AddIndexers(cache.Indexers{podOfClaim: claimKeys}); err != nil {
		return nil, fmt.Errorf("build the scheduler: %w", err)
	}
	anyVolume := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { s.retryMisfits(false) }, UpdateFunc: func(any, any) { s.retryMisfits(false) },
	}
	return s, errors.Join(
		s.watch(core.PersistentVolumeClaims().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.claimChanged(obj.(*corev1.PersistentVolumeClaim)) },
			UpdateFunc: func(_, after any) { s.claimChanged(after.(*corev1.PersistentVolumeClaim)) },
			DeleteFunc: func(obj any) { s.claimChanged(last(obj).(*corev1.PersistentVolumeClaim)) },
		}),
		s.watch(core.PersistentVolumes().Informer(), anyVolume),
		s.watch(factory.Storage().V1().StorageClasses().Informer(), anyVolume),
		s.watch(core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.podChanged(nil, obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) { s.podChanged(before.(*corev1.Pod), after.(*corev1.Pod)) },
			DeleteFunc: func(obj any) { s.podGone(last(obj).(*corev1.Pod)) },
		}),
		s.watch(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.nodeChanged(nil, obj.(*corev1.Node)) },
			UpdateFunc: func(before, after any) { s.nodeChanged(before.(*corev1.Node), after.(*corev1.Node)) },
			DeleteFunc: func(obj any) { s.nodeGone(last(obj).(*corev1.Node)) },
		}),
		s.watch(core.Namespaces().Informer(), cache.ResourceEventHandlerFuncs{}),
	)
}

func (s *Scheduler) watch(informer cache.SharedIndexInformer, handler cache.ResourceEventHandlerFuncs) error {
	registration, err := informer.AddEventHandler(handler)
	if err != nil {
		return fmt.Errorf("build the scheduler: %w", err)
	}
	// Not only the informer's cache but what the handlers make of it must be complete before the first choice.
	s.synced = append(s.synced, registration.HasSyncedChecker())
	return nil
}

func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

// Run schedules until ctx ends, and returns when the last binding under way has ended.
func (s *Scheduler) Run(ctx context.Context) error {
	s.writer.Start()
	defer s.writer.Stop()
	if !cache.WaitFor(ctx, "", s.synced...) {
		return fmt.Errorf("run the scheduler: %w before the informers were filled", context.Cause(ctx))
	}
	var binding sync.WaitGroup
	binding.Go(func() { s.acts.Run(ctx, workers) })
	s.loop.Run(ctx, 1)
	binding.Wait()
	return nil
}

func key(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

func (s *Scheduler) podChanged(before, pod *corev1.Pod) {
	s.mu.Lock()
	freed := s.known.putPod(pod)
	if pod.Spec.NodeName != "" {
		delete(s.reservations, pod.UID)
	}
	s.mu.Unlock()
	relabelled := before != nil && !equality.Semantic.DeepEqual(before.Labels, pod.Labels) || before == nil && pod.Spec.NodeName != ""
	bound := before != nil && before.Spec.NodeName == "" && pod.Spec.NodeName != ""
	if freed || relabelled || bound {
		s.retryMisfits(!freed) // A new neighbour may be what an affinity waits for, but makes no room.
	}
	// The scheduler's own word in the status must not bring the pod back.
	if s.waiting(pod) && (before == nil || !equality.Semantic.DeepEqual(before.Spec, pod.Spec) || relabelled) {
		s.loop.Add(key(pod))
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.mu.Lock()
	freed := s.known.removePod(pod.UID)
	delete(s.misfit, key(pod))
	delete(s.reservations, pod.UID)
	s.mu.Unlock()
	if freed {
		s.retryMisfits(false)
	}
}

func (s *Scheduler) nodeChanged(before, node *corev1.Node) {
	s.mu.Lock()
	s.known.putNode(node)
	s.mu.Unlock()
	if before == nil || !equality.Semantic.DeepEqual(before.Spec, node.Spec) || !equality.Semantic.DeepEqual(before.Labels, node.Labels) ||
		!equality.Semantic.DeepEqual(before.Status.Allocatable, node.Status.Allocatable) {
		s.retryMisfits(false)
	}
}

func (s *Scheduler) nodeGone(node *corev1.Node) {
	s.mu.Lock()
	s.known.removeNode(node.Name)
	s.mu.Unlock()
	s.retryMisfits(true) // With fewer domains to spread over, a pod may fit that did not.
}

// retryMisfits brings back the pods that fit nowhere so far: all, or only those to whom neighbours matter.
func (s *Scheduler) retryMisfits(neighbourly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bringBack(neighbourly)
}

// bringBack is retryMisfits for who has locked.
func (s *Scheduler) bringBack(neighbourly bool) {
	var back []string
	for key, m := range s.misfit {
		if m.neighbourly || !neighbourly {
			back = append(back, key)
		}
	}
	// The first is taken at once.
	slices.SortFunc(back, func(a, b string) int { return cmp.Compare(s.misfit[b].priority, s.misfit[a].priority) })
	for _, key := range back {
		s.loop.Add(key)
		delete(s.misfit, key)
	}
}

// waiting says whether the pod is this scheduler's to bind.
func (s *Scheduler) waiting(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" && pod.Spec.SchedulerName == s.name && pod.DeletionTimestamp == nil &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && len(pod.Spec.SchedulingGates) == 0
}

// decide chooses a node for one pod, and leaves it to Reconcile to bind it there, while the next one is chosen for.
func (s *Scheduler) decide(_ context.Context, key string) (time.Duration, error) {
	pod, err := s.toPlace(key)
	if pod == nil || err != nil {
		return 0, err
	}
	if made := s.choose(pod); !made.none() {
		s.mu.Lock()
		s.decided[key] = made
		s.mu.Unlock()
		s.acts.Add(key)
	}
	return 0, nil
}

// toPlace is the pod of a key, if it is there and this scheduler's to bind.
func (s *Scheduler) toPlace(key string) (*corev1.Pod, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	pod, err := s.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !s.waiting(pod) {
		return nil, nil
	}
	return pod, err
}

// Reconcile binds one pod to the node that was chosen for it, or says why there is none. After a failure it chooses itself.
func (s *Scheduler) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	s.mu.Lock()
	made, there := s.decided[key]
	delete(s.decided, key)
	s.mu.Unlock()
	pod, err := s.toPlace(key)
	switch {
	case err != nil:
		return 0, err
	case pod == nil && made.node != nil:
		s.giveUp(made.pod)
		return 0, nil
	case pod == nil:
		return 0, nil
	case !there:
		made = s.choose(pod)
	}
	switch {
	case errors.Is(made.err, errLate):
		return time.Minute, s.reject(ctx, pod, made.err.Error())
	case made.err != nil:
		return 0, made.err
	case made.failure != "":
		return 0, s.reject(ctx, pod, made.failure)
	case made.none():
		return 0, nil // It was bound a moment ago, and the cache does not show it yet.
	case len(made.volumes.waiting) == 0:
		return 0, s.bind(ctx, made.pod, made.node.Name)
	}
	until := s.reserve(made.pod, made.node.Name)
	if err := s.claimVolumes(ctx, &made.volumes, made.node); err != nil {
		s.giveUp(made.pod)
		return 0, err
	}
	return time.Until(until) + time.Millisecond, nil // The claims' events bring it back sooner.
}

// giveUp takes a pod off the node that was chosen for it. If that made room, others may have been turned away for it meanwhile.
func (s *Scheduler) giveUp(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(pod)
}

// release is giveUp for who has locked.
func (s *Scheduler) release(pod *corev1.Pod) {
	delete(s.reservations, pod.UID)
	if s.known.forget(pod.UID) {
		s.bringBack(false)
	}
}

// choose picks a node, and counts the pod there from now on; or the one where the pod has kept its place. Where there is none, the
// pod is noted to be tried again when something changes. All is read under the lock: what changes after that finds the pod noted.
func (s *Scheduler) choose(pod *corev1.Pod) decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := decision{pod: pod}
	var blocked string
	if made.volumes, blocked, made.err = s.storage.read(pod); made.err != nil {
		return made
	}
	if made.node, made.err = s.reserved(pod, &made.volumes, blocked); made.node != nil || made.err != nil || s.known.has(pod.UID) {
		return made
	}
	var wanted *request
	if wanted, made.failure = newRequest(pod, s.namespaces); made.failure == "" {
		wanted.holdVolumes(&made.volumes, blocked, s.known.claims)
		var fitting []*nodeInfo
		if fitting, made.failure = feasible(wanted, s.known.sorted()); made.failure == "" {
			made.node = best(wanted, fitting).node
			s.known.assume(pod, made.node.Name)
			return made
		}
	}
	s.misfit[key(pod)] = misfit{
		neighbourly: len(affinityTerms(pod))+len(antiAffinityTerms(pod))+len(pod.Spec.TopologySpreadConstraints) > 0,
		priority:    schedulinghelpers.PodPriority(pod),
	}
	return made
}

func (s *Scheduler) bind(ctx context.Context, pod *corev1.Pod, node string) error {
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return nil
	}
	s.giveUp(pod)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("bind pod %s to node %s: %w", key(pod), node, err)
}

// reject tells the pod's owner why it stays pending.
func (s *Scheduler) reject(ctx context.Context, pod *corev1.Pod, failure string) error {
	s.events.Event(pod, corev1.EventTypeWarning, "FailedScheduling", failure)
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled })
	changed := metav1.Now()
	if i >= 0 {
		now := pod.Status.Conditions[i]
		if now.Status == corev1.ConditionFalse && now.Reason == corev1.PodReasonUnschedulable && now.Message == failure {
			return nil
		}
		if now.Status == corev1.ConditionFalse {
			changed = now.LastTransitionTime
		}
	}
	patch, err := conditionPatch(pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: failure,
		ObservedGeneration: pod.Generation, LastTransitionTime: changed,
	})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the condition PodScheduled of pod %s: %w", key(pod), err)
	}
	return nil
}
