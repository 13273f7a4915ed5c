package api

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

// What means the same is what the library says, wherever in an object two differ.
func TestSame(t *testing.T) {
	for _, r := range Table() {
		t.Run(r.Kind, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			for seed := range uint64(8) {
				a := random(r, seed)
				if !Same(a, a.DeepCopyObject()) {
					t.Fatalf("seed %d: an object is not the same as its copy", seed)
				}
				for range 10 {
					b := a.DeepCopyObject()
					replaceSome(rnd, reflect.ValueOf(b).Elem(), reflect.ValueOf(random(r, seed+1)).Elem())
					if want, got := equality.Semantic.DeepEqual(a, b), Same(a, b); want != got {
						t.Fatalf("seed %d: %v, and the library says %v, of\n%v\n%v", seed, got, want, a, b)
					}
				}
			}
		})
	}
	var none runtime.Object
	if !Same(none, none) || Same(none, random(Table()[0], 1)) {
		t.Error("nothing is the same as nothing alone")
	}
}

// replaceSome goes down into a value, wherever chance leads, and gives what it finds there the value that another has in that place,
// or none.
func replaceSome(rnd *rand.Rand, v, other reflect.Value) {
	switch in := v.Kind(); {
	case rnd.IntN(12) == 0 && v.CanSet():
		v.SetZero()
	case in == reflect.Pointer && !v.IsNil() && !other.IsNil():
		replaceSome(rnd, v.Elem(), other.Elem())
	case in == reflect.Slice && v.Len() > 0 && other.Len() > 0:
		replaceSome(rnd, v.Index(rnd.IntN(v.Len())), other.Index(rnd.IntN(other.Len())))
	case in == reflect.Slice && v.IsNil() && v.CanSet():
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	case in == reflect.Map && v.Len() > 0:
		key := v.MapKeys()[rnd.IntN(v.Len())]
		changed := reflect.New(v.Type().Elem()).Elem()
		changed.Set(v.MapIndex(key))
		replaceSome(rnd, changed, reflect.Zero(changed.Type()))
		v.SetMapIndex(key, changed)
	case in == reflect.Struct && v.NumField() > 0 && v.Type().Field(0).IsExported():
		i := rnd.IntN(v.NumField())
		replaceSome(rnd, v.Field(i), other.Field(i))
	case v.CanSet():
		v.Set(other)
	}
}
