package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// FuzzJSONDecoder holds that an object reads as the library reads it, and that nothing else is wrong with a text.
func FuzzJSONDecoder(f *testing.F) {
	for _, text := range []string{
		`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"kind":"x"}},"spec":{"containers":[{"name":"kind"}]}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"\"kind\":\"Pod\"","b":"\\"}}`,
		`{"apiVersion":"apps/v1","kind":"Deployment"}`,
		`{"kind":"Pod","kind":"ConfigMap","apiVersion":"v1"}`,
		`{"Kind":"Pod","apiVersion":"v1","KIND":"ConfigMap"}`,
		`{"` + "\u212a" + `ind":"Pod","api\u0056ersion":"v1"}`,
		`{"kind":"","apiVersion":null,"kind":"Pod"}`,
		`{"kind":["Pod"],"apiVersion":{"kind":"Pod"}}`,
		`{"kind":"Nothing","apiVersion":"v1",}`,
		`{"kind":"Pod","apiVersion":"a/b/c"}`,
		`{"kind":"Pod","apiVersion":"v1","spec":{"containers":7}}`,
		`{"kind":"Pod","apiVersion":"v1","nothing":1} x`,
		`{"metadata":{"name":"p"}}`,
		`["kind","Pod"]`, `null`, `"kind"`, `{`, `{"kind`, ``,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		otherwise := corev1.SchemeGroupVersion.WithKind("Pod")
		for _, d := range []jsonDecoder{laxJSON, strictJSON} {
			want, wantKind, wantErr := d.careful.Decode(text, &otherwise, nil)
			got, kind, err := d.Decode(text, &otherwise, nil)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-library +decoder:\n%s", diff)
			}
			if diff := cmp.Diff(wantKind, kind); diff != "" {
				t.Errorf("-library +decoder:\n%s", diff)
			}
			if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Errorf("error %v, want %v", err, wantErr)
			}
		}
	})
}
