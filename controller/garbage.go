package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"skiff/api"
	"skiff/reconcile"
)

// garbage deletes objects whose owners are all gone, and does the waiting and letting go that the propagation policies
// Foreground and Orphan ask for; the API server marks such owners with a finalizer.
//
// An owner is one object, known by its UID: another of the same name does not count. The caches say whom to look at, but
// the server is asked before anything is deleted.
//
// Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/.
type garbage struct {
	loop  *reconcile.Loop
	live  anyKind
	kinds []ownedKind
	more  *customKinds
}

// ownedKind is a kind that is watched for owners and dependents.
type ownedKind struct {
	gvk        schema.GroupVersionKind
	gvr        schema.GroupVersionResource
	namespaced bool
	indexer    cache.Indexer
}

// watchedKinds is every kind of the table that can own or be owned. Events are not among them: they expire.
func watchedKinds() []ownedKind {
	var kinds []ownedKind
	for _, r := range api.Table() {
		if r.Kind != "Event" && r.Kind != "CustomResourceDefinition" && r.Keeps() {
			kinds = append(kinds, ownedKind{gvk: r.GroupVersionKind(), gvr: r.GroupVersion().WithResource(r.Name), namespaced: r.Namespaced})
		}
	}
	return kinds
}

func newGarbage(b *base) error {
	c := &garbage{live: anyKind{b.client.Discovery()}, kinds: watchedKinds()}
	c.loop = b.loop("garbage", 10, c.Reconcile)
	for i := range c.kinds {
		k := &c.kinds[i]
		generic, err := b.factory.ForResource(k.gvr)
		if err != nil {
			return fmt.Errorf("watch %s for the garbage loop: %w", k.gvr.Resource, err)
		}
		informer := generic.Informer()
		k.indexer = informer.GetIndexer()
		if err := addIndex(informer, byOwner, ownerKeys); err != nil {
			return fmt.Errorf("index %s for the garbage loop: %w", k.gvr.Resource, err)
		}
		b.needs(informer)
		if err := c.watch(k, informer); err != nil {
			return err
		}
	}
	var err error
	c.more, err = newCustomKinds(b, c.live, c.watch)
	return err
}

// watch has the loop hear of what happens to a kind's objects.
func (c *garbage) watch(k *ownedKind, informer cache.SharedIndexInformer) error {
	return listen(informer, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.came(k, obj.(metav1.Object)) },
		UpdateFunc: func(before, after any) { c.changed(k, before.(metav1.Object), after.(metav1.Object)) },
		DeleteFunc: func(obj any) { c.gone(k, obj.(metav1.Object)) },
	})
}

// all are the kinds of the table and those that were defined since.
func (c *garbage) all() []*ownedKind {
	all := make([]*ownedKind, 0, len(c.kinds))
	for i := range c.kinds {
		all = append(all, &c.kinds[i])
	}
	return append(all, c.more.all()...)
}

// item names an object of a watched kind; as a string it is the loop's key.
type item struct {
	gvr             schema.GroupVersionResource
	namespace, name string
}

func (i item) String() string { return path(i.gvr, i.namespace, i.name) }

func (c *garbage) came(k *ownedKind, obj metav1.Object) {
	if len(obj.GetOwnerReferences()) > 0 || obj.GetDeletionTimestamp() != nil {
		c.loop.Add(keyOf(k, obj))
	}
}

// changed passes over the many changes that have nothing to do with owners.
func (c *garbage) changed(k *ownedKind, before, after metav1.Object) {
	if equality.Semantic.DeepEqual(before.GetOwnerReferences(), after.GetOwnerReferences()) &&
		slices.Equal(before.GetFinalizers(), after.GetFinalizers()) &&
		(before.GetDeletionTimestamp() == nil) == (after.GetDeletionTimestamp() == nil) {
		return
	}
	c.came(k, after)
	c.addOwners(before) // One that this object no longer blocks may go now.
}

func (c *garbage) gone(k *ownedKind, obj metav1.Object) {
	for _, dependent := range c.dependents(obj.GetUID()) {
		c.loop.Add(dependent.key)
	}
	c.addOwners(obj)
}

func (c *garbage) addOwners(obj metav1.Object) {
	for _, ref := range obj.GetOwnerReferences() {
		if k := c.kindOf(ref); k != nil {
			c.loop.Add(item{k.gvr, ownerNamespace(k, obj), ref.Name}.String())
		}
	}
}

func keyOf(k *ownedKind, obj metav1.Object) string {
	return item{k.gvr, obj.GetNamespace(), obj.GetName()}.String()
}

func ownerNamespace(k *ownedKind, dependent metav1.Object) string {
	if k.namespaced {
		return dependent.GetNamespace()
	}
	return ""
}

func (c *garbage) kindOf(ref metav1.OwnerReference) *ownedKind {
	group := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	for _, k := range c.all() {
		if k.gvk.GroupKind() == group { // In whatever version: it is the same object.
			return k
		}
	}
	return nil
}

// find returns the object that a key names, as the cache has it; nil if there is none.
func (c *garbage) find(key string) (*ownedKind, metav1.Object) {
	for _, k := range c.all() {
		prefix := path(schema.GroupVersionResource{Group: k.gvr.Group, Version: k.gvr.Version}, "", "")
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		namespace := ""
		if k.namespaced {
			if rest, ok = strings.CutPrefix(rest, "namespaces/"); !ok {
				continue
			}
			namespace, rest, _ = strings.Cut(rest, "/")
		}
		name, ok := strings.CutPrefix(rest, k.gvr.Resource+"/")
		if !ok || strings.Contains(name, "/") {
			continue
		}
		obj, there, err := k.indexer.GetByKey(strings.TrimPrefix(namespace+"/"+name, "/"))
		if err != nil || !there {
			return nil, nil
		}
		return k, obj.(metav1.Object)
	}
	return nil, nil
}

// dependent is an object that has the owner asked for.
type dependent struct {
	metav1.Object
	kind *ownedKind
	key  string
}

func (c *garbage) dependents(owner types.UID) []dependent {
	var all []dependent
	for _, k := range c.all() {
		objs, err := k.indexer.ByIndex(byOwner, string(owner))
		if err != nil {
			continue // The index was added when the controller was built.
		}
		for _, obj := range objs {
			o := obj.(metav1.Object)
			all = append(all, dependent{o, k, keyOf(k, o)})
		}
	}
	return all
}

// Reconcile looks at one object, as a dependent of its owners or, when it is being deleted, as an owner of dependents.
func (c *garbage) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	k, obj := c.find(key)
	switch {
	case obj == nil:
		return 0, nil
	case obj.GetDeletionTimestamp() != nil && has(obj, metav1.FinalizerOrphanDependents):
		return 0, c.orphan(ctx, k, obj)
	case obj.GetDeletionTimestamp() != nil && has(obj, metav1.FinalizerDeleteDependents):
		return 0, c.foreground(ctx, k, obj)
	case obj.GetDeletionTimestamp() != nil:
		return 0, nil
	}
	return 0, c.collect(ctx, k, obj)
}

func has(obj metav1.Object, finalizer string) bool {
	return slices.Contains(obj.GetFinalizers(), finalizer)
}

// orphan takes an owner's references off its dependents and then lets it go.
func (c *garbage) orphan(ctx context.Context, k *ownedKind, owner metav1.Object) error {
	for _, d := range c.dependents(owner.GetUID()) {
		if err := c.keepOwners(ctx, d.kind, d, func(ref metav1.OwnerReference) bool { return ref.UID != owner.GetUID() }); err != nil {
			return err
		}
	}
	return c.removeFinalizer(ctx, k, owner, metav1.FinalizerOrphanDependents)
}

// foreground lets an owner go when the last dependent that blocks it has gone; until then it has the others looked at.
func (c *garbage) foreground(ctx context.Context, k *ownedKind, owner metav1.Object) error {
	blocked := false
	for _, d := range c.dependents(owner.GetUID()) {
		if blocks(d, owner.GetUID()) {
			blocked = true
		}
		if d.GetDeletionTimestamp() == nil {
			c.loop.Add(d.key)
		}
	}
	if blocked {
		return nil
	}
	return c.removeFinalizer(ctx, k, owner, metav1.FinalizerDeleteDependents)
}

func blocks(dependent metav1.Object, owner types.UID) bool {
	return slices.ContainsFunc(dependent.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && blocking(ref)
	})
}

func blocking(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// ownership sorts an object's owner references by what has become of the owner.
type ownership struct {
	solid   []metav1.OwnerReference // It is there.
	waiting []metav1.OwnerReference // It is being deleted and waits for its dependents.
	absent  []metav1.OwnerReference // It is gone.
}

// collect deletes an object that has no owner left, and takes off the references of those that are gone where others
// remain.
func (c *garbage) collect(ctx context.Context, k *ownedKind, obj metav1.Object) error {
	if len(obj.GetOwnerReferences()) == 0 {
		return nil
	}
	owners, err := c.ownership(ctx, obj)
	if err != nil {
		return err
	}
	if len(owners.waiting)+len(owners.absent) == 0 {
		return nil
	}
	if len(owners.solid) > 0 {
		return c.keepOwners(ctx, k, obj, func(ref metav1.OwnerReference) bool { return slices.Contains(uids(owners.solid), ref.UID) })
	}
	live, err := c.live.get(ctx, k.gvr, obj.GetNamespace(), obj.GetName())
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s before deleting it: %w", keyOf(k, obj), err)
	}
	if live.UID != obj.GetUID() || !slices.Equal(uids(live.OwnerReferences), uids(obj.GetOwnerReferences())) {
		return fmt.Errorf("delete %s: the cache is behind", keyOf(k, obj))
	}
	policy := c.policy(live, len(owners.waiting) > 0)
	if policy == metav1.DeletePropagationForeground && slices.ContainsFunc(live.OwnerReferences, blocking) && c.inCircle(live) {
		return c.unblock(ctx, k, live) // The change brings it here again.
	}
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(live.UID)), PropagationPolicy: &policy}
	options.Preconditions.ResourceVersion = &live.ResourceVersion
	err = c.live.delete(ctx, k.gvr, live.Namespace, live.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s, whose owners are gone: %w", keyOf(k, obj), err)
	}
	return nil
}

// policy is how to delete an object: as its finalizers say; else, where an owner waits for it, so that it waits for its
// own dependents in turn.
func (c *garbage) policy(obj metav1.Object, ownerWaits bool) metav1.DeletionPropagation {
	switch {
	case has(obj, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case has(obj, metav1.FinalizerDeleteDependents), ownerWaits && len(c.dependents(obj.GetUID())) > 0:
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// inCircle tells that a dependent of the object waits for its own dependents: one that the object may be, by way of others.
// Then each would wait for the next for ever. It need not be so; Kubernetes looks no further either, as all of them go anyway.
func (c *garbage) inCircle(obj metav1.Object) bool {
	return slices.ContainsFunc(c.dependents(obj.GetUID()), func(d dependent) bool {
		return d.GetDeletionTimestamp() != nil && has(d, metav1.FinalizerDeleteDependents)
	})
}

// unblock has no owner wait for the object any more.
func (c *garbage) unblock(ctx context.Context, k *ownedKind, live metav1.Object) error {
	refs := slices.Clone(live.GetOwnerReferences())
	for i, ref := range refs {
		if blocking(ref) {
			refs[i].BlockOwnerDeletion = new(bool)
		}
	}
	return c.patchMeta(ctx, k, live, "ownerReferences", refs)
}

func (c *garbage) ownership(ctx context.Context, obj metav1.Object) (ownership, error) {
	var o ownership
	for _, ref := range obj.GetOwnerReferences() {
		owner, err := c.owner(ctx, obj, ref)
		switch {
		case errors.Is(err, errUnknownKind), errors.Is(err, errOwnerNamespace):
			slog.Warn("an owner cannot be looked for; its dependent stays", "dependent", obj.GetNamespace()+"/"+obj.GetName(), "owner", ref.Name, "err", err)
			o.solid = append(o.solid, ref)
		case err != nil:
			return o, err
		case owner == nil:
			o.absent = append(o.absent, ref)
		case owner.GetDeletionTimestamp() != nil && has(owner, metav1.FinalizerDeleteDependents):
			o.waiting = append(o.waiting, ref)
		default:
			o.solid = append(o.solid, ref)
		}
	}
	return o, nil
}

// owner returns the object that ref means; nil if it is gone. What the cache does not have the server is asked for.
func (c *garbage) owner(ctx context.Context, dependent metav1.Object, ref metav1.OwnerReference) (metav1.Object, error) {
	var gvr schema.GroupVersionResource
	namespace := dependent.GetNamespace()
	if k := c.kindOf(ref); k != nil {
		if k.namespaced && namespace == "" {
			return nil, errOwnerNamespace
		}
		gvr, namespace = k.gvr, ownerNamespace(k, dependent)
		obj, there, err := k.indexer.GetByKey(strings.TrimPrefix(namespace+"/"+ref.Name, "/"))
		if err == nil && there && obj.(metav1.Object).GetUID() == ref.UID {
			return obj.(metav1.Object), nil
		}
	} else {
		resource, err := c.live.resource(ref.APIVersion, ref.Kind)
		if err != nil {
			return nil, err
		}
		gvr = schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupVersion().WithResource(resource.Name)
		if !resource.Namespaced {
			namespace = ""
		} else if namespace == "" {
			return nil, errOwnerNamespace
		}
	}
	live, err := c.live.get(ctx, gvr, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read owner %s: %w", path(gvr, namespace, ref.Name), err)
	}
	if live.UID != ref.UID {
		return nil, nil
	}
	return live, nil
}

func uids(refs []metav1.OwnerReference) []types.UID {
	var all []types.UID
	for _, ref := range refs {
		all = append(all, ref.UID)
	}
	return all
}

// keepOwners takes those owner references off an object that keep does not want.
func (c *garbage) keepOwners(ctx context.Context, k *ownedKind, obj metav1.Object, keep func(metav1.OwnerReference) bool) error {
	live, err := c.live.get(ctx, k.gvr, obj.GetNamespace(), obj.GetName())
	if apierrors.IsNotFound(err) || (err == nil && live.UID != obj.GetUID()) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", keyOf(k, obj), err)
	}
	kept := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(ref metav1.OwnerReference) bool { return !keep(ref) })
	if len(kept) == len(live.OwnerReferences) {
		return nil
	}
	return c.patchMeta(ctx, k, live, "ownerReferences", kept)
}

func (c *garbage) removeFinalizer(ctx context.Context, k *ownedKind, obj metav1.Object, finalizer string) error {
	live, err := c.live.get(ctx, k.gvr, obj.GetNamespace(), obj.GetName())
	if apierrors.IsNotFound(err) || (err == nil && (live.UID != obj.GetUID() || !has(live, finalizer))) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", keyOf(k, obj), err)
	}
	kept := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patchMeta(ctx, k, live, "finalizers", kept)
}

// patchMeta replaces one field of an object's metadata, if the object is still what was read.
func (c *garbage) patchMeta(ctx context.Context, k *ownedKind, live metav1.Object, field string, value any) error {
	err := c.live.mergePatch(ctx, k.gvr, live.GetNamespace(), live.GetName(), map[string]any{"metadata": map[string]any{
		"uid": live.GetUID(), "resourceVersion": live.GetResourceVersion(), field: value,
	}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("change %s of %s: %w", field, keyOf(k, live), err)
	}
	return nil
}
