package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"skiff/store"
	"skiff/store/bolt"
	"skiff/store/snapshot"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *running) snapshot(t *testing.T) (rev uint64, kvs []store.KV) {
	t.Helper()
	r, err := snapshot.NewReader(bytes.NewReader(s.do(t, "GET", SnapshotPath, "").want(t, http.StatusOK).body))
	if err != nil {
		t.Fatal(err)
	}
	for kv, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		kvs = append(kvs, kv)
	}
	return r.Rev, kvs
}

// Only administrators get what holds all Secrets.
func TestSnapshotForbidden(t *testing.T) {
	s := start(t)
	s.doAs(t, nodeUser, "GET", SnapshotPath, "").refused(t, 403, metav1.StatusReasonForbidden, `User "system:node:n1" cannot get path "/snapshot"`)
}

// A snapshot that is taken while there are writes is of one moment: of a writer that writes one object after the other it
// holds none without those before it.
func TestSnapshotOfOneMoment(t *testing.T) {
	s := start(t)
	for _, name := range []string{"a", "b", "z"} {
		s.createConfigMap(t, name)
	}
	s.createService(t, "b", "") // On another shelf.
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			for _, path := range []string{configMapsPath + "/z", "/api/v1/namespaces/default/services/b", configMapsPath + "/a"} {
				s.do(t, "PATCH", path, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, n), "Content-Type", "application/merge-patch+json").want(t, http.StatusOK)
			}
		}
	})
	for range 20 {
		rev, kvs := s.snapshot(t)
		n := map[string]int{}
		for _, kv := range kvs {
			r, key := s.cache.locate(kv.Key)
			if r == nil {
				t.Fatalf("%s is of no kind", kv.Key)
			}
			it, err := newItem(r, key, kv)
			if err != nil {
				t.Fatal(err)
			}
			n[kv.Key], _ = strconv.Atoi(it.meta().GetLabels()["n"])
		}
		z, b, a := n["configmaps/default/z"], n["services/default/b"], n["configmaps/default/a"]
		if z < b || b < a || z > a+1 {
			t.Fatalf("at revision %d the objects were written %d, %d and %d times, one after the other", rev, z, b, a)
		}
	}
	cancel()
	writer.Wait()
}

// A server on a store that was restored has the same objects, at revisions that no client has seen: who watched lists again.
func TestRestoredSnapshot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "store")
	s := startOn(t, file)
	s.createPod(t, "p")
	s.createService(t, "svc", "")
	paths := []string{"/api/v1/pods", "/api/v1/services", "/api/v1/namespaces", "/api/v1/endpoints"}
	before := map[string]string{}
	for _, path := range paths {
		before[path] = withoutRevisions(s.do(t, "GET", path, "").want(t, 200).body)
	}
	rev, kvs := s.snapshot(t)
	s.createConfigMap(t, "later")
	newest := s.cache.revision()
	s.stop()

	if _, err := bolt.Restore(file, filepath.Join(dir, "kept"), rev, all(kvs)); err != nil {
		t.Fatal(err)
	}
	s = startOn(t, file)
	for _, path := range paths {
		if diff := cmp.Diff(before[path], withoutRevisions(s.do(t, "GET", path, "").want(t, 200).body)); diff != "" {
			t.Errorf("%s after the restoration (-before +after):\n%s", path, diff)
		}
	}
	s.do(t, "GET", configMapsPath+"/later", "").want(t, 404)
	e := s.watch(t, configMapsPath+fmt.Sprintf("?resourceVersion=%d", newest)).next()
	if e.Type != "ERROR" || e.Object.Code != 410 {
		t.Errorf("a watch from before the restoration gets %+v, want 410", e)
	}
	if c := s.createConfigMap(t, "new"); c.ResourceVersion <= strconv.FormatUint(newest, 10) && len(c.ResourceVersion) <= len(strconv.FormatUint(newest, 10)) {
		t.Errorf("a new object has revision %s, want more than %d", c.ResourceVersion, newest)
	}
}

func all(kvs []store.KV) iter.Seq2[store.KV, error] {
	return func(yield func(store.KV, error) bool) {
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
	}
}

// withoutRevisions is a list's JSON without what a restoration changes.
func withoutRevisions(body []byte) string {
	parts := strings.Split(string(body), `"resourceVersion":"`)
	for i := range parts[1:] {
		_, parts[i+1], _ = strings.Cut(parts[i+1], `"`)
	}
	return strings.Join(parts, "")
}
