package apiserver

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"skiff/api"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// What a patch makes of a Go value is what it makes of the object's JSON.
func TestPatchedValue(t *testing.T) {
	for _, r := range api.Table() {
		if r.Custom || !r.Keeps() {
			continue
		}
		t.Run(r.Kind, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			told := 0
			for range 100 {
				old, other := asWritten(t, r, rnd), asWritten(t, r, rnd)
				var tree map[string]any
				if err := json.Unmarshal([]byte(toJSON(t, []runtime.Object{old, other}[rnd.IntN(2)])), &tree); err != nil {
					t.Fatal(err)
				}
				kind := []types.PatchType{types.MergePatchType, types.StrategicMergePatchType}[rnd.IntN(2)]
				p := patch{kind: kind, body: []byte(toJSON(t, somePatch(tree, rnd))), row: r}
				v := newValidation(metav1.FieldValidationStrict)
				before := toJSON(t, old)
				got, ok := p.patched(old)
				if after := toJSON(t, old); after != before {
					t.Fatalf("%s %s has changed the object that it was made for:\n%s\nit was\n%s", kind, p.body, after, before)
				}
				if !ok {
					continue
				}
				told++
				want, err := p.rewritten(&item{obj: old}, v, nil)
				if err != nil {
					t.Fatalf("%s %s is taken, but: %v", kind, p.body, err)
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("%s %s makes of\n%s\n-in JSON, +in Go:\n%s", kind, p.body, before, diff)
				}
			}
			if told == 0 {
				t.Error("no patch can be made of the Go value")
			}
		})
	}
}

// asWritten is an object with anything in it, as it comes out of JSON.
func asWritten(t *testing.T, r *api.Resource, rnd *rand.Rand) runtime.Object {
	t.Helper()
	obj, err := decode([]byte(toJSON(t, someObject(r, rnd))), typeJSON, r.GroupVersionKind(), newValidation(metav1.FieldValidationStrict))
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// somePatch is a part of an object's JSON in which some members are null, and now and then one is nonsense.
func somePatch(tree map[string]any, rnd *rand.Rand) map[string]any {
	p := map[string]any{}
	for name, member := range tree {
		within, deep := member.(map[string]any)
		switch n := rnd.IntN(20); {
		case n < 2 && name != "kind" && name != "apiVersion":
			p[name] = nil
		case n < 4 && deep:
			p[name] = member
		case n < 12 && deep:
			p[name] = somePatch(within, rnd)
		case n < 8:
			if _, list := member.([]any); !list || rnd.IntN(8) == 0 {
				p[name] = member
			}
		}
	}
	if rnd.IntN(50) == 0 {
		p[[]string{"$patch", "unknown", "a"}[rnd.IntN(3)]] = []any{"delete", "1", nil, 1.5, map[string]any{}}[rnd.IntN(5)]
	}
	return p
}
