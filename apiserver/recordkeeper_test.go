package apiserver

import (
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"
	"time"

	"skiff/api"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

func someText(rnd *rand.Rand) string {
	if rnd.IntN(2000) == 0 {
		return []string{"é", "<", `"`, "\n"}[rnd.IntN(4)]
	}
	return []string{"", "example.com/", "a"}[rnd.IntN(3)] + strconv.Itoa(rnd.IntN(99))
}

// someObject makes an object of the kind with anything in it, of few different values, so that two have many in common.
func someObject(r *api.Resource, rnd *rand.Rand) runtime.Object {
	fill := randfill.NewWithSeed(int64(rnd.Uint32())).NilChance(0.6).NumElements(0, 3).MaxDepth(10).Funcs(
		func(s *string, _ randfill.Continue) { *s = someText(rnd) },
		func(p *corev1.Protocol, _ randfill.Continue) { *p = corev1.ProtocolUDP },
		func(q *quantity.Quantity, _ randfill.Continue) {
			*q = *quantity.NewQuantity(rnd.Int64N(3), quantity.DecimalSI)
		},
		func(m *metav1.Time, _ randfill.Continue) { *m = metav1.Unix(rnd.Int64N(2), 0) },
		func(m *metav1.MicroTime, _ randfill.Continue) { m.Time = time.Unix(rnd.Int64N(2), 0) },
		func(v *intstr.IntOrString, _ randfill.Continue) { *v = intstr.FromInt32(rnd.Int32N(2)) },
		func(v *int32, _ randfill.Continue) { *v = rnd.Int32N(99) },
		func(v *int64, _ randfill.Continue) { *v = rnd.Int64N(99) },
		func(v *metav1.FieldsV1, _ randfill.Continue) {},
		func(v *metav1.TypeMeta, _ randfill.Continue) {},
		func(v *runtime.RawExtension, _ randfill.Continue) { v.Raw = []byte(`{"a":1}`) },
	)
	obj := r.New()
	fill.Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	metaOf(obj).SetManagedFields(nil)
	metaOf(obj).SetUID("")
	return obj
}

// eachKeeper calls test with the keeper of each kind that is stored as a Go type, and with chance.
func eachKeeper(t *testing.T, test func(t *testing.T, k *recordKeeper, rnd *rand.Rand)) {
	s := start(t)
	for _, r := range s.table {
		if !r.Keeps() {
			continue
		}
		k, err := newOwnership(r, s.table, s.schemas)[""]()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(r.Kind, func(t *testing.T) { test(t, k, rand.New(rand.NewPCG(1, 2))) })
	}
}

// The record of a new object is the one that the field manager makes.
func TestFirstRecord(t *testing.T) {
	eachKeeper(t, func(t *testing.T, k *recordKeeper, rnd *rand.Rand) {
		told := 0
		for range 100 {
			obj := someObject(k.resource, rnd)
			record, ok := k.first(obj, "me")
			if !ok {
				continue
			}
			told++
			k.update(nothing(k.resource), obj, "me")
			if diff := cmp.Diff(metaOf(obj).GetManagedFields(), record, cmpopts.IgnoreFields(metav1.ManagedFieldsEntry{}, "Time")); diff != "" {
				t.Fatalf("-of the field manager, +of the keeper:\n%s", diff)
			}
		}
		if told == 0 && k.resource.Kind != "ControllerRevision" { // Which holds anything.
			t.Error("the keeper can tell no object's record")
		}
	})
}

// The record of a change is the one that the field manager makes, its times and order included.
func TestRenewedRecord(t *testing.T) {
	eachKeeper(t, func(t *testing.T, k *recordKeeper, rnd *rand.Rand) {
		told := 0
		for range 10 {
			one := someObject(k.resource, rnd)
			other := altered(one, someObject(k.resource, rnd), rnd)
			k.update(nothing(k.resource), one, "me")
			old := one
			for i := range 8 {
				old = aged(old, i)
				next := []runtime.Object{one, other}[rnd.IntN(2)].DeepCopyObject()
				manager := []string{"me", "you"}[rnd.IntN(2)]
				record := metaOf(old).GetManagedFields()
				renewed, ok := k.renewed(record, old, next, manager)
				before, after := differing(old, next)
				metaOf(before).SetManagedFields(record)
				k.update(before, after, manager)
				metaOf(next).SetManagedFields(metaOf(after).GetManagedFields())
				if old = next; !ok {
					continue
				}
				told++
				if diff := cmp.Diff(metaOf(next).GetManagedFields(), renewed, aboutThen); diff != "" {
					t.Fatalf("changed by %s: -of the field manager, +of the keeper:\n%s", manager, diff)
				}
			}
		}
		if told == 0 {
			t.Error("the keeper can renew no record")
		}
	})
}

// aboutThen has times compared by the hour.
var aboutThen = cmp.Comparer(func(a, b *metav1.Time) bool { return a.Sub(b.Time).Abs() < time.Hour/2 })

// altered is an object in which one field, or one of its metadata, its spec or whatever it has, is another's.
func altered(obj, other runtime.Object, rnd *rand.Rand) runtime.Object {
	obj = obj.DeepCopyObject()
	to, from := reflect.ValueOf(obj).Elem(), reflect.ValueOf(other).Elem()
	for to.Kind() == reflect.Struct && !hasOwnForm(to.Type()) && to.NumField() > 0 {
		i := rnd.IntN(to.NumField())
		to, from = to.Field(i), from.Field(i)
	}
	to.Set(from)
	metaOf(obj).SetManagedFields(nil)
	obj.GetObjectKind().SetGroupVersionKind(other.GetObjectKind().GroupVersionKind())
	return obj
}

// aged is an object as it is stored, with a record that was made hours ago, at different times.
func aged(obj runtime.Object, hours int) runtime.Object {
	obj = obj.DeepCopyObject()
	metaOf(obj).SetUID("u")
	record := metaOf(obj).GetManagedFields()
	for i := range record {
		record[i].Time = &metav1.Time{Time: record[i].Time.Add(-time.Duration(hours+len(record)-i) * time.Hour)}
	}
	return obj
}
