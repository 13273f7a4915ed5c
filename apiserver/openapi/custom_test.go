package openapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"weak"

	"skiff/api"
)

func customKind(kind, schema string) *Custom {
	return &Custom{
		Resource: &api.Resource{
			Group: "sea.example.com", Version: "v1", Name: strings.ToLower(kind) + "s", Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List",
			Custom: true, Namespaced: true, Verbs: []string{"get", "list", "patch"},
		},
		Schema: func(bool) (json.RawMessage, error) { return json.RawMessage(schema), nil },
	}
}

func serve(t *testing.T, handle func(http.ResponseWriter, *http.Request) error, url, accept string) string {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", url, nil)
	r.Header.Set("Accept", accept)
	if err := handle(w, r); err != nil {
		t.Fatalf("%s as %s: %v", url, accept, err)
	}
	return w.Body.String()
}

// A kind whose schema cannot be described does not keep the others from being.
func TestCustomKindThatFitsNoDocument(t *testing.T) {
	own, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := own.With([]*Custom{customKind("Boat", `{"type":"object","properties":{"mast":{"type":"string"}}}`), customKind("Wreck", `{"type":"object","properties":"none"}`)})
	if err != nil {
		t.Fatal(err)
	}
	v2 := serve(t, docs.V2, "/openapi/v2", "application/json")
	for _, want := range []string{`"mast"`, `"com.example.sea.v1.Wreck":{"type":"object","x-kubernetes-group-version-kind"`} {
		if !strings.Contains(v2, want) {
			t.Errorf("the document lacks %s:\n%.2000s", want, v2)
		}
	}
	serve(t, docs.GroupVersion, "/openapi/v3/apis/sea.example.com/v1", typeProtoV3)
	serve(t, docs.V2, "/openapi/v2", typeProtoV2)
}

// A document that has not changed is not built again.
func TestDocumentsAreKept(t *testing.T) {
	own, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	boat := customKind("Boat", `{"type":"object"}`)
	first, err := own.With([]*Custom{boat})
	if err != nil {
		t.Fatal(err)
	}
	other := customKind("Lake", `{"type":"object"}`)
	other.Resource.Group = "land.example.com"
	second, err := first.With([]*Custom{other, boat})
	if err != nil {
		t.Fatal(err)
	}
	if first.v3["apis/sea.example.com/v1"] != second.v3["apis/sea.example.com/v1"] {
		t.Error("the document of boats is another")
	}
	if third, err := second.With([]*Custom{boat}); err != nil || third.v3["apis/land.example.com/v1"] != nil {
		t.Errorf("the document of lakes is still there, or %v", err)
	}
}

// Documents that others have replaced, and what was built of them, do not stay in memory with those of them that still hold.
func TestReplacedDocumentsGo(t *testing.T) {
	own, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	boat := customKind("Boat", `{"type":"object"}`)
	replaced := func() (weak.Pointer[Documents], *Documents) {
		first, err := own.With([]*Custom{boat})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, first.V2, "/openapi/v2", "application/json")
		other := customKind("Lake", `{"type":"object"}`)
		other.Resource.Group = "land.example.com"
		second, err := first.With([]*Custom{boat, other})
		if err != nil {
			t.Fatal(err)
		}
		return weak.Make(first), second
	}
	first, second := replaced()
	runtime.GC()
	if first.Value() != nil {
		t.Error("the replaced documents are still in memory")
	}
	runtime.KeepAlive(second)
}
