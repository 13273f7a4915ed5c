package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Names of the indexes that controllers add to the shared informers.
const (
	byController = "controller" // By the UID of the controlling owner, or by orphanKey where there is none.
	byOwner      = "owner"      // By the UID of each owner.
	byNode       = "node"       // Pods by spec.nodeName.
)

// orphanKey is the entry of the byController index for a namespace's objects that no controller owns.
func orphanKey(namespace string) string { return "orphan/" + namespace }

// keysOf names the object of the given kind that controls obj or, for an obj of nobody, those of its namespace that might
// adopt it.
func keysOf[T metav1.Object](obj metav1.Object, kind string, list func(labels.Selector) ([]T, error), selectorOf func(T) *metav1.LabelSelector) []string {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		if ref.Kind != kind {
			return nil
		}
		return []string{obj.GetNamespace() + "/" + ref.Name}
	}
	all, err := list(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []string
	for _, owner := range all {
		selector, err := metav1.LabelSelectorAsSelector(selectorOf(owner))
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(obj.GetLabels())) {
			keys = append(keys, owner.GetNamespace()+"/"+owner.GetName())
		}
	}
	return keys
}

// addIndex adds an index to an informer unless another controller has done it already.
func addIndex(informer cache.SharedIndexInformer, name string, keys cache.IndexFunc) error {
	if _, there := informer.GetIndexer().GetIndexers()[name]; there {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{name: keys})
}

func controllerKeys(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("index %T by controller: not an object", obj)
	}
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{orphanKey(o.GetNamespace())}, nil
}

func ownerKeys(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("index %T by owner: not an object", obj)
	}
	var uids []string
	for _, ref := range o.GetOwnerReferences() {
		uids = append(uids, string(ref.UID))
	}
	return uids, nil
}

// indexed returns the objects of an index's entry, sorted by name so that what is decided on them does not vary.
func indexed[T metav1.Object](indexer cache.Indexer, index, key string) ([]T, error) {
	objs, err := indexer.ByIndex(index, key)
	if err != nil {
		return nil, fmt.Errorf("read index %s: %w", index, err)
	}
	out := make([]T, 0, len(objs))
	for _, obj := range objs {
		out = append(out, obj.(T))
	}
	slices.SortFunc(out, func(a, b T) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	return out, nil
}

// patchFunc sends a patch of the given type to the object of that name.
type patchFunc func(ctx context.Context, name string, kind types.PatchType, patch []byte) error

// claim sorts out whom the objects belong to, by ownership and by selector: it returns those that owner controls, adopts
// orphans that its selector matches, and lets go of its own that the selector no longer matches. Found are the objects
// that owner controls or that nobody does. One that is gone when it is to be adopted belongs to nobody: who counted it would
// delete another in its place.
//
// Source: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/ (non-template pod acquisitions).
func claim[T metav1.Object](ctx context.Context, owner metav1.Object, ref metav1.OwnerReference, selector labels.Selector,
	found []T, alive func(ctx context.Context) error, patch patchFunc) ([]T, error) {
	var mine []T
	checked := false
	for _, obj := range found {
		controlled := metav1.IsControlledBy(obj, owner)
		matches := selector.Matches(labels.Set(obj.GetLabels()))
		switch {
		case controlled && matches, controlled && owner.GetDeletionTimestamp() != nil:
			mine = append(mine, obj)
		case controlled:
			err := patch(ctx, obj.GetName(), types.StrategicMergePatchType, releasePatch(obj, owner))
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("release %s: %w", obj.GetName(), err)
			}
		case matches && owner.GetDeletionTimestamp() == nil && obj.GetDeletionTimestamp() == nil:
			if !checked { // A stale cache must not adopt for an owner that is being deleted.
				if err := alive(ctx); err != nil {
					return nil, fmt.Errorf("adopt %s: %w", obj.GetName(), err)
				}
				checked = true
			}
			err := patch(ctx, obj.GetName(), types.StrategicMergePatchType, adoptPatch(obj, ref))
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("adopt %s: %w", obj.GetName(), err)
			}
			mine = append(mine, obj)
		}
	}
	return mine, nil
}

// sameAlive is the error of an owner that is no longer what the cache says.
func sameAlive(cached, live metav1.Object) error {
	if live.GetUID() != cached.GetUID() {
		return fmt.Errorf("%s was replaced by another of its name", cached.GetName())
	}
	if live.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s is being deleted", cached.GetName())
	}
	return nil
}

// The UID in these patches makes the API server refuse them for another object of the same name.

func adoptPatch(obj metav1.Object, ref metav1.OwnerReference) []byte {
	return mustJSON(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "ownerReferences": []metav1.OwnerReference{ref},
	}})
}

func releasePatch(obj, owner metav1.Object) []byte {
	return mustJSON(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "ownerReferences": []map[string]any{{"$patch": "delete", "uid": owner.GetUID()}},
	}})
}

// mustJSON encodes what is made of strings, numbers, maps and API types, which cannot fail.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
