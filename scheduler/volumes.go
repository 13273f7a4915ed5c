package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"skiff/api"
)

// A pod can only run where its volumes are. Those that are bound already say where that is. Of a class that waits for its first
// consumer, the scheduler looks for one that fits the node, or has one made there; the pod is bound when they are.
// https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode

// storage is what the API says of volumes.
type storage struct {
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
}

func newStorage(factory informers.SharedInformerFactory) storage {
	core := factory.Core().V1()
	return storage{core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister(), factory.Storage().V1().StorageClasses().Lister()}
}

// podVolumes are those of a pod that have a claim.
type podVolumes struct {
	alone   []string                           // Claims, by "namespace/name", that one pod at a time may use.
	bound   []*corev1.PersistentVolume         // Of the claims that have one; nil for one that is gone.
	waiting []*corev1.PersistentVolumeClaim    // Those that the pod is the first consumer of, the smallest first.
	classes map[string]*storagev1.StorageClass // Of those.
	all     []*corev1.PersistentVolume         // What they may get.
}

// read finds the volumes of a pod. Blocked is why it can run nowhere.
func (s storage) read(pod *corev1.Pod) (v podVolumes, blocked string, err error) {
	for i := range pod.Spec.Volumes {
		name := api.ClaimOf(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		claim, err := s.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
		if apierrors.IsNotFound(err) {
			return v, notFound(&pod.Spec.Volumes[i], name), nil
		}
		if err != nil {
			return v, "", err
		}
		if blocked := unusable(pod, &pod.Spec.Volumes[i], claim); blocked != "" {
			return v, blocked, nil
		}
		if blocked, err = s.add(&v, claim); blocked != "" || err != nil {
			return v, blocked, err
		}
	}
	if len(v.waiting) == 0 {
		return v, "", nil
	}
	slices.SortStableFunc(v.waiting, func(a, b *corev1.PersistentVolumeClaim) int {
		size := a.Spec.Resources.Requests[corev1.ResourceStorage]
		return cmp.Or(size.Cmp(b.Spec.Resources.Requests[corev1.ResourceStorage]), cmp.Compare(a.Name, b.Name))
	})
	v.all, err = s.volumes.List(labels.Everything())
	return v, "", err
}

func notFound(v *corev1.Volume, name string) string {
	if v.Ephemeral != nil {
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	}
	return fmt.Sprintf("persistentvolumeclaim %q not found", name)
}

func unusable(pod *corev1.Pod, v *corev1.Volume, claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name)
	case v.Ephemeral != nil:
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return err.Error()
		}
	}
	return ""
}

// add sorts one claim in.
func (s storage) add(v *podVolumes, claim *corev1.PersistentVolumeClaim) (blocked string, err error) {
	if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		v.alone = append(v.alone, claim.Namespace+"/"+claim.Name)
	}
	if bindingDone(claim) {
		bound, err := s.volumes.Get(claim.Spec.VolumeName)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", err
		}
		v.bound = append(v.bound, bound)
		return "", nil
	}
	class, err := s.classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	if err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || claim.Spec.VolumeName != "" {
		return "pod has unbound immediate PersistentVolumeClaims", nil
	}
	if v.classes == nil {
		v.classes = map[string]*storagev1.StorageClass{}
	}
	v.classes[claim.Name] = class
	v.waiting = append(v.waiting, claim)
	return "", nil
}

// bindingDone says that a claim has a volume, be it lost since: the scheduler has no more to choose.
func bindingDone(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// volumesFit asks whether a node can have all of a pod's volumes.
func volumesFit(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	for _, v := range r.volumes.bound {
		switch {
		case v == nil:
			return []string{"node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"}
		case volume.CheckNodeAffinity(v, n.node.Labels) != nil:
			return []string{"node(s) didn't match PersistentVolume's node affinity"}
		}
	}
	if r.inUse {
		return []string{"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"}
	}
	if _, ok := r.volumes.on(n.node); !ok {
		return []string{"node(s) didn't find available persistent volumes to bind"}
	}
	return nil
}

// match is a claim with the volume that it is to get; without one, that is to be made.
type match struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// on finds what the claims that wait would get on a node. Not ok: one of them would get nothing.
func (v *podVolumes) on(node *corev1.Node) (matches []match, ok bool) {
	taken := map[string]*corev1.PersistentVolume{}
	for _, claim := range v.waiting {
		selected, isSelected := claim.Annotations[volume.AnnSelectedNode]
		if isSelected && selected != node.Name {
			return nil, false
		}
		found, err := volume.FindMatchingVolume(claim, v.all, node, taken, true, true)
		if err != nil {
			return nil, false
		}
		class := v.classes[claim.Name]
		if found == nil && (class.Provisioner == volume.NotSupportedProvisioner || !api.InTopology(class.AllowedTopologies, node.Labels)) {
			return nil, false
		}
		if found != nil {
			taken[found.Name] = found
		}
		matches = append(matches, match{claim, found})
	}
	return matches, true
}

// bindTimeout is how long a pod keeps its place on a node while its volumes are made.
const bindTimeout = 10 * time.Minute

// reservation is the place of a pod whose volumes are on their way.
type reservation struct {
	node  string
	until time.Time
}

// errLate is why a pod loses its place when its volumes took too long.
var errLate = errors.New(`running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`)

// reserved is the node on which a pod has kept its place, nil if on none. One that its volumes cannot come to is given up. The
// caller has locked.
func (s *Scheduler) reserved(pod *corev1.Pod, v *podVolumes, blocked string) (*corev1.Node, error) {
	r, has := s.reservations[pod.UID]
	if !has {
		return nil, nil
	}
	n := s.known.nodes[r.node]
	expired := time.Now().After(r.until)
	if !expired && blocked == "" && n != nil && n.node != nil && !slices.ContainsFunc(v.waiting, deselected) && volumesFit(&request{pod: pod, volumes: *v}, n, nil) == nil {
		return n.node, nil
	}
	s.release(pod)
	if expired {
		return nil, errLate
	}
	return nil, nil
}

// deselected tells a claim whose provisioner wants it on another node.
func deselected(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName == "" && !volume.IsDelayBindingProvisioning(claim)
}

// reserve keeps a pod's place until its volumes are there, or until the time that it returns.
func (s *Scheduler) reserve(pod *corev1.Pod, node string) (until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.reservations[pod.UID]; !has {
		s.reservations[pod.UID] = reservation{node, time.Now().Add(bindTimeout)}
	}
	return s.reservations[pod.UID].until
}

// claimVolumes says in the API which volumes a pod on the node is to get.
func (s *Scheduler) claimVolumes(ctx context.Context, v *podVolumes, node *corev1.Node) error {
	matches, ok := v.on(node)
	if !ok {
		return errors.New("the volumes of its node have changed")
	}
	for _, m := range matches {
		if err := s.claimVolume(ctx, m, node.Name); err != nil {
			return fmt.Errorf("claim a volume for %s/%s on node %s: %w", m.claim.Namespace, m.claim.Name, node.Name, err)
		}
	}
	return nil
}

func (s *Scheduler) claimVolume(ctx context.Context, m match, node string) error {
	if m.volume == nil {
		if m.claim.Annotations[volume.AnnSelectedNode] == node {
			return nil
		}
		next := m.claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnSelectedNode, node)
		_, err := s.client.CoreV1().PersistentVolumeClaims(next.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		return err
	}
	next, changed, err := volume.GetBindVolumeToClaim(m.volume, m.claim)
	if err == nil && changed {
		_, err = s.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{})
	}
	return err
}

// podOfClaim is the index of pods by the claims that they refer to.
const podOfClaim = "scheduler/podOfClaim"

func claimKeys(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	keys := api.ClaimsOf(pod)
	for i := range keys {
		keys[i] = pod.Namespace + "/" + keys[i]
	}
	return keys, nil
}

// claimChanged brings back the pods that wait for a claim.
func (s *Scheduler) claimChanged(claim *corev1.PersistentVolumeClaim) {
	pods, err := s.byClaim.ByIndex(podOfClaim, claim.Namespace+"/"+claim.Name)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, obj := range pods {
		if pod := obj.(*corev1.Pod); s.waiting(pod) {
			delete(s.misfit, key(pod))
			s.loop.Add(key(pod))
		}
	}
}
