package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A long list costs little more memory than its items' encodings, which all requests share.
func TestLongListIsNotPutTogether(t *testing.T) {
	s := start(t)
	big := strings.Repeat("x", 500<<10)
	for i := range 30 {
		s.do(t, "POST", configMapsPath, strings.Replace(configMapJSON(fmt.Sprintf("c%d", i)), `"1"`, `"`+big+`"`, 1)).want(t, 201)
	}
	for _, headers := range [][2]string{{typeJSON, ""}, {typeProto, ""}, {typeJSON, "gzip"}, {typeProto, "gzip"}} {
		req := httptest.NewRequest("GET", configMapsPath, nil)
		req = req.WithContext(withUser(context.Background(), administrator))
		req.Header.Set("Accept", headers[0])
		req.Header.Set("Accept-Encoding", headers[1])
		cost := func() (bytes uint64, answer int) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w := &discard{header: http.Header{}}
			s.ServeHTTP(w, req)
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc, w.n
		}
		cost() // From now on the items have their encodings.
		got, answer := cost()
		if got > 5<<20 || headers[1] == "" && answer < 30*len(big) {
			t.Errorf("%v: %d bytes were allocated for an answer of %d", headers, got, answer)
		}
	}
}

// In whatever form a list comes, it says the same, and is as long as it was said to be.
func TestListsInAllForms(t *testing.T) {
	s := start(t)
	for i := range 3 {
		s.createPod(t, fmt.Sprintf("p%d", i))
	}
	for _, limit := range []int64{0, 1} {
		sh := s.shelf("pods")
		p := sh.state(s.cache).page(selectAll(sh.resource), "", limit)
		asJSON, err := listJSON(sh.resource, p)
		if err != nil {
			t.Fatal(err)
		}
		asProto, err := listProto(sh.resource, p)
		if err != nil {
			t.Fatal(err)
		}
		written := func(d document) []byte {
			t.Helper()
			b, err := d.bytes()
			if err != nil || len(b) != d.size {
				t.Errorf("limit %d: %d bytes, want %d; error %v", limit, len(b), d.size, err)
			}
			return b
		}
		fromJSON, _, err := jsonSerializer.Decode(written(asJSON), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		list := fromJSON.(*corev1.PodList)
		if want := map[int64]int{0: 3, 1: 1}[limit]; len(list.Items) != want {
			t.Errorf("limit %d: %d pods", limit, len(list.Items))
		}
		var want bytes.Buffer
		for i := range list.Items {
			list.Items[i].TypeMeta = metav1.TypeMeta{}
		}
		if err := protoSerializer.Encode(list, &want); err != nil {
			t.Fatal(err)
		}
		if got := written(asProto); !bytes.Equal(want.Bytes(), got) {
			t.Errorf("limit %d: as protobuf\n%q\nwant\n%q", limit, got, want.Bytes())
		}
	}
}
