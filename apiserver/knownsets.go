package apiserver

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// knownSets remembers sets of fields that were lately read out of records: many objects of a kind have the same, and to read
// one costs as much as all else that is done with it. A set never changes.
type knownSets struct {
	mu   sync.Mutex
	sets map[knownSet]*fieldpath.Set
}

// knownSet is a set as it is written, for a type.
type knownSet struct{ of, fields string }

// maxKnownSets is how many are remembered. One takes some ten kilobytes.
const maxKnownSets = 64

// of is what an entry of an object's record says is set; nil if it cannot be read, or means something else by now, because the
// type has changed.
func (k *knownSets) of(e *metav1.ManagedFieldsEntry, obj *typed.TypedValue) *fieldpath.Set {
	if e.FieldsType != fieldsV1 || e.FieldsV1 == nil || obj.TypeRef().NamedType == nil {
		return nil
	}
	of, fields := *obj.TypeRef().NamedType, e.FieldsV1.GetRawBytes()
	k.mu.Lock()
	defer k.mu.Unlock()
	if set := k.sets[knownSet{of, string(fields)}]; set != nil {
		return set
	}
	set := &fieldpath.Set{}
	if err := set.FromJSON(e.FieldsV1.GetRawReader()); err != nil {
		return nil
	}
	if changed, err := typed.ReconcileFieldSetWithSchema(set, obj); err != nil || changed != nil {
		return nil
	}
	if k.sets == nil || len(k.sets) == maxKnownSets {
		k.sets = map[knownSet]*fieldpath.Set{}
	}
	k.sets[knownSet{of, string(fields)}] = set
	return set
}
