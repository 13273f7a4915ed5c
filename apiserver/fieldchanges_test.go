package apiserver

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Which fields differ is what the comparison of server-side apply says.
func TestFieldChanges(t *testing.T) {
	eachKeeper(t, func(t *testing.T, k *recordKeeper, rnd *rand.Rand) {
		told := 0
		for range 100 {
			old := someObject(k.resource, rnd)
			now := old.DeepCopyObject()
			for range rnd.IntN(3) {
				now = altered(now, someObject(k.resource, rnd), rnd)
			}
			a, b := metaOf(old), metaOf(now)
			a.SetLabels(map[string]string{"a": someText(rnd), "b": "1"})
			b.SetLabels(map[string]string{"a": someText(rnd), "c": "1"})
			before, after := differing(old, now)
			was, err := k.types.ObjectToTyped(before, typed.AllowDuplicates)
			if err != nil {
				t.Fatal(err)
			}
			c := newFieldChanges(was.Schema())
			c.members(reflect.ValueOf(old).Elem(), reflect.ValueOf(now).Elem(), was.TypeRef(), k.apart)
			if c.gaveUp {
				continue
			}
			told++
			is, err := k.types.ObjectToTyped(after, typed.AllowDuplicates)
			if err != nil {
				t.Fatal(err)
			}
			want, err := was.Compare(is)
			if err != nil {
				t.Fatal(err)
			}
			want, got := want.FilterFields(k.filter), c.found.FilterFields(k.filter)
			if !want.Added.Equals(got.Added) || !want.Modified.Equals(got.Modified) || !want.Removed.Equals(got.Removed) {
				t.Fatalf("of server-side apply:\n%s\nof the walk:\n%s", want, got)
			}
		}
		if told < 10 {
			t.Errorf("the walk gave up %d times of 100", 100-told)
		}
	})
}
