package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"skiff/api"
	"skiff/reconcile"
)

// claims finds a PersistentVolume for each PersistentVolumeClaim, or has one made (provision.go). Two objects point at each
// other then: the volume's claimRef first, which nobody else can take after that, the claim's volumeName second. Whoever comes
// after a crash finds one of the two and goes on.
//
// Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding
type claims struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	nodes   corelisters.NodeLister
	events  record.EventRecorder
}

func newClaims(b *base, events record.EventRecorder) error {
	core, classes := b.factory.Core().V1(), b.factory.Storage().V1().StorageClasses()
	c := &claims{
		client: b.client, claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		classes: classes.Lister(), nodes: core.Nodes().Lister(), events: events,
	}
	loop := b.loop("claim", 2, c.Reconcile)
	return errors.Join(
		b.watch(loop, core.PersistentVolumeClaims().Informer(), reconcile.ObjectKey),
		b.watch(loop, core.PersistentVolumes().Informer(), c.wanting),
		b.watch(loop, classes.Informer(), c.wanting),
		b.handle(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { c.addWaiting(loop) },
			UpdateFunc: func(before, after any) {
				if was, is := before.(*corev1.Node), after.(*corev1.Node); open(was) != open(is) || !maps.Equal(was.Labels, is.Labels) {
					c.addWaiting(loop)
				}
			},
		}),
	)
}

// addWaiting brings back the claims that have no volume yet: a node that can have one has come.
func (c *claims) addWaiting(loop *reconcile.Loop) {
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return
	}
	for _, claim := range all {
		if !bindCompleted(claim) {
			loop.Add(claim.Namespace + "/" + claim.Name)
		}
	}
}

// wanting names the claims to which a volume or a class matters: the one that a volume is bound to, else those that wait.
func (c *claims) wanting(obj any) []string {
	class, isDefault := "", false
	switch o := obj.(type) {
	case *corev1.PersistentVolume:
		if ref := o.Spec.ClaimRef; ref != nil {
			return []string{ref.Namespace + "/" + ref.Name}
		}
		class = volume.GetPersistentVolumeClass(o)
	case *storagev1.StorageClass:
		class, isDefault = o.Name, api.IsDefaultStorageClass(o)
	}
	waiting, err := c.claims.List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []string
	for _, claim := range waiting {
		if bindCompleted(claim) {
			continue
		}
		if volume.GetPersistentVolumeClaimClass(claim) == class || isDefault && !volume.PersistentVolumeClaimHasClass(claim) {
			keys = append(keys, claim.Namespace+"/"+claim.Name)
		}
	}
	return keys
}

// bindCompleted says that the claim has had a volume; it will have no other.
func bindCompleted(claim *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// Reconcile brings one claim a step nearer to its volume.
func (c *claims) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, err
	case bindCompleted(claim):
		return 0, c.keep(ctx, claim)
	case claim.DeletionTimestamp != nil:
		return 0, nil
	case claim.Spec.VolumeName != "":
		return 0, c.bindNamed(ctx, claim)
	}
	return 0, c.bindAny(ctx, claim)
}

// keep looks after a claim that was bound.
func (c *claims) keep(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return c.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) { // It may have been made a moment ago.
		v, err = c.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return c.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case err != nil:
		return err
	case v.Spec.ClaimRef != nil && !volume.IsVolumeBoundToClaim(v, claim):
		return c.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	if err := c.bind(ctx, v, claim); err != nil {
		return err
	}
	return c.grow(ctx, v, claim)
}

// bindNamed binds a claim to the volume that it names itself.
func (c *claims) bindNamed(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	switch {
	case apierrors.IsNotFound(err):
		return c.setPending(ctx, claim)
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil:
		if problem := mismatch(v, claim); problem != "" {
			c.events.Event(claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, problem))
			return c.setPending(ctx, claim)
		}
	case !volume.IsVolumeBoundToClaim(v, claim):
		c.events.Event(claim, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
		return c.setPending(ctx, claim)
	}
	return c.bind(ctx, v, claim)
}

// mismatch is why a volume that a claim names is not what the claim wants, "" if it is.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	size, wanted := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return "the volume is marked for deletion"
	case size.Cmp(wanted) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	}
	return ""
}

// bindAny binds a claim to the volume that fits best, or has one made.
func (c *claims) bindAny(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delayed, err := volume.IsDelayBindingMode(claim, c.classes)
	if err != nil {
		return err
	}
	all, err := c.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(v *corev1.PersistentVolume) bool { return !volume.CheckAccessModes(claim, v) })
	v, err := volume.FindMatchingVolume(claim, all, nil, nil, delayed, true)
	switch {
	case err != nil:
		return err
	case v != nil:
		return c.bind(ctx, v, claim)
	}
	if given, err := c.giveClass(ctx, claim); given || err != nil {
		return err
	}
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		c.events.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case volume.GetPersistentVolumeClaimClass(claim) != "":
		return c.provision(ctx, claim)
	default:
		c.events.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return c.setPending(ctx, claim)
}

// giveClass gives a claim that names no class, and came before there was a default one, that: the change brings it back here.
// https://kubernetes.io/docs/concepts/storage/persistent-volumes/#retroactive-default-storageclass-assignment
func (c *claims) giveClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (given bool, err error) {
	if volume.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	all, err := c.classes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	all = slices.DeleteFunc(all, func(s *storagev1.StorageClass) bool { return !api.IsDefaultStorageClass(s) })
	if len(all) == 0 {
		return false, nil
	}
	newest := slices.MaxFunc(all, func(a, b *storagev1.StorageClass) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(b.Name, a.Name))
	})
	next := claim.DeepCopy()
	next.Spec.StorageClassName = &newest.Name
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return false, fmt.Errorf("give claim %s/%s the default class: %w", claim.Namespace, claim.Name, err)
	}
	return true, nil
}

// bind makes the two point at each other. Each step is skipped that was done before.
func (c *claims) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	bound, dirty, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return err
	}
	if dirty {
		if bound, err = c.client.CoreV1().PersistentVolumes().Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind volume %s to claim %s/%s: %w", v.Name, claim.Namespace, claim.Name, err)
		}
	}
	if err := setVolumePhase(ctx, c.client, bound, corev1.VolumeBound, "", ""); err != nil {
		return err
	}
	next := claim.DeepCopy()
	if next.Spec.VolumeName == "" {
		next.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, volume.AnnBindCompleted, "yes")
	if !equality.Semantic.DeepEqual(next, claim) {
		if next, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind claim %s/%s to volume %s: %w", claim.Namespace, claim.Name, v.Name, err)
		}
	}
	status := next.Status
	status.Phase, status.AccessModes = corev1.ClaimBound, v.Spec.AccessModes
	if next.Status.Phase != corev1.ClaimBound || status.Capacity == nil {
		status.Capacity = v.Spec.Capacity
	}
	return c.setStatus(ctx, next, status)
}

func (c *claims) setPending(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	return c.setStatus(ctx, claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending, Conditions: claim.Status.Conditions})
}

// lose gives up a claim whose volume is gone. Nobody can say what was on it.
func (c *claims) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase == corev1.ClaimLost {
		return nil
	}
	c.events.Event(claim, corev1.EventTypeWarning, reason, message)
	return c.setStatus(ctx, claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost, Conditions: claim.Status.Conditions})
}

func (c *claims) setStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, status corev1.PersistentVolumeClaimStatus) error {
	if equality.Semantic.DeepEqual(claim.Status, status) {
		return nil
	}
	claim = claim.DeepCopy()
	claim.Status = status
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write the status of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}
