package apiserver

import (
	"cmp"
	"reflect"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"skiff/api"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// recordKeeper keeps the managed fields of what is written to one kind in one way: as a whole, or through a subresource. The
// field manager can find out all of them. What most writes come to is found out here in a fraction of the time: the
// record of a new object, and that of a change by somebody who had set the same fields before.
type recordKeeper struct {
	*managedfields.FieldManager
	resource *api.Resource
	sub      string
	types    converter
	filter   fieldpath.Filter // Leaves what can be written in this way; nil leaves all.
	nobodys  nobodys
	apart    nobodys        // Those that are not compared.
	ofNobody *fieldpath.Set // The same.
	empty    runtime.Object // The object that there is before one is created. It never changes.
}

func newRecordKeeper(r *api.Resource, sub string, forms forms, types schemas) func() (*recordKeeper, error) {
	return sync.OnceValues(func() (*recordKeeper, error) {
		types, err := types()
		if err != nil {
			return nil, err
		}
		k := &recordKeeper{resource: r, sub: sub, types: types, filter: writable(r, sub), nobodys: nobodysOf(r, sub), empty: nothing(r)}
		k.ofNobody, k.apart = k.nobodys.set(), nobodys{"metadata": {"managedFields": nil}}
		if within, ok := k.nobodys["status"]; ok {
			k.apart["status"] = within
		}
		resets := map[fieldpath.APIVersion]fieldpath.Filter{}
		if k.filter != nil {
			resets[fieldpath.APIVersion(r.GroupVersion().String())] = k.filter
		}
		newManager := managedfields.NewDefaultFieldManager
		if r.Custom {
			newManager = managedfields.NewDefaultCRDFieldManager
		}
		k.FieldManager, err = newManager(types, forms, forms, forms, r.GroupVersionKind(), r.Stored().GroupVersion(), sub, resets)
		return k, err
	})
}

// nobodys are the fields of an object that nobody owns, by name. Of a field with some within it, those are meant.
type nobodys map[string]nobodys

// nobodysOf are those that the server sets, and the status where that is not written with the object.
func nobodysOf(r *api.Resource, sub string) nobodys {
	n := nobodys{"apiVersion": nil, "kind": nil, "metadata": {"name": nil, "namespace": nil, "creationTimestamp": nil,
		"selfLink": nil, "uid": nil, "clusterName": nil, "generation": nil, "managedFields": nil, "resourceVersion": nil}}
	if _, ok := r.Sub("status"); ok && sub == "" {
		n["status"] = nil
	}
	return n
}

func (n nobodys) set() *fieldpath.Set {
	set := fieldpath.NewSet()
	for name, within := range n {
		set.Insert(fieldpath.MakePathOrDie(name))
		for inner := range within {
			set.Insert(fieldpath.MakePathOrDie(name, inner))
		}
	}
	return set
}

// first is the record of a new object: all that it sets is manager's. ok is false where only the field manager can tell.
func (k *recordKeeper) first(obj runtime.Object, manager string) (record []metav1.ManagedFieldsEntry, ok bool) {
	if !k.knows(obj) || metaOf(obj).GetManagedFields() != nil || !utf8.ValidString(manager) {
		return nil, false
	}
	t, err := k.types.typeOf(obj)
	if err != nil {
		return nil, false
	}
	w := fieldsWriter{types: t.Schema}
	fields, ok := w.object(reflect.ValueOf(k.empty).Elem(), reflect.ValueOf(obj).Elem(), t.TypeRef, k.nobodys)
	if !ok {
		return nil, false
	}
	entry := k.entryOf(manager)
	entry.FieldsType, entry.FieldsV1 = fieldsV1, &metav1.FieldsV1{}
	entry.FieldsV1.SetRawBytes(fields)
	entry.Time = &metav1.Time{Time: time.Now().UTC()}
	return []metav1.ManagedFieldsEntry{entry}, true
}

const fieldsV1 = "FieldsV1"

// knows tells whether the keeper can look into an object itself: it is of a Go type, and in the form that the keeper is for.
func (k *recordKeeper) knows(obj runtime.Object) bool {
	_, tree := obj.(*unstructured.Unstructured)
	return !tree && k.resource.View == nil && obj.GetObjectKind().GroupVersionKind() == k.resource.GroupVersionKind()
}

// entryOf is what a record says of manager, but for fields and time.
func (k *recordKeeper) entryOf(manager string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager:     cmp.Or(manager, "unknown"),
		Operation:   metav1.ManagedFieldsOperationUpdate,
		APIVersion:  k.resource.GroupVersion().String(),
		Subresource: k.sub,
	}
}

// renewed is the record of an object in which manager changes nothing but what it says is manager's and nobody else's: the
// same with a new time. ok is false if more changes, or if only the field manager can tell.
func (k *recordKeeper) renewed(record []metav1.ManagedFieldsEntry, before, after runtime.Object, manager string) (_ []metav1.ManagedFieldsEntry, ok bool) {
	if !k.knows(before) || !k.knows(after) {
		return nil, false
	}
	old, changes, err := k.compare(before, after)
	if err != nil {
		return nil, false
	}
	set := changes.Modified.Union(changes.Added)
	touched, owned := set.Union(changes.Removed), set.Difference(k.ofNobody)
	own := -1
	for i := range record {
		fields := k.types.known.of(&record[i], old)
		switch {
		case fields == nil, fields.Empty(), record[i].APIVersion != k.resource.GroupVersion().String():
			return nil, false
		case k.isOf(&record[i], manager):
			own = i
			if !owned.Difference(fields).Empty() || !changes.Removed.Intersection(fields).Empty() {
				return nil, false
			}
		case !touched.Intersection(fields).Empty():
			return nil, false
		}
	}
	if own < 0 || owned.Empty() {
		return record, owned.Empty()
	}
	record = slices.Clone(record)
	record[own].Time = &metav1.Time{Time: time.Now().UTC()}
	slices.SortFunc(record, compareEntries)
	return record, true
}

// isOf tells whether an entry is of what manager has written in the way that the keeper is for.
func (k *recordKeeper) isOf(e *metav1.ManagedFieldsEntry, manager string) bool {
	want := k.entryOf(manager)
	return e.Manager == want.Manager && e.Operation == want.Operation && e.APIVersion == want.APIVersion && e.Subresource == want.Subresource
}

// compare finds what differs of that which can be written in this way.
func (k *recordKeeper) compare(before, after runtime.Object) (old *typed.TypedValue, changes *typed.Comparison, err error) {
	if old, err = k.types.ObjectToTyped(before, typed.AllowDuplicates); err != nil {
		return nil, nil, err
	}
	if k.sub == "" {
		c := newFieldChanges(old.Schema())
		c.members(reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem(), old.TypeRef(), k.apart)
		if !c.gaveUp {
			return old, c.found.FilterFields(k.filter), nil
		}
	}
	before, after = differing(before, after)
	old, err = k.types.ObjectToTyped(before, typed.AllowDuplicates)
	if err != nil {
		return nil, nil, err
	}
	obj, err := k.types.ObjectToTyped(after, typed.AllowDuplicates)
	if err != nil {
		return nil, nil, err
	}
	if changes, err = old.Compare(obj); err != nil {
		return nil, nil, err
	}
	return old, changes.FilterFields(k.filter), nil
}

// compareEntries is the order of a record's entries: by operation, by age, by who.
func compareEntries(a, b metav1.ManagedFieldsEntry) int {
	age := func(e metav1.ManagedFieldsEntry) int64 {
		if e.Time == nil {
			return 0
		}
		return e.Time.Unix()
	}
	return cmp.Or(
		cmp.Compare(a.Operation, b.Operation), cmp.Compare(age(a), age(b)), cmp.Compare(a.Manager, b.Manager),
		cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource),
	)
}
