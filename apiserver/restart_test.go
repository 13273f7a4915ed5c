package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"skiff/store"
	"skiff/store/bolt"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// goneStore takes back what it has shown, as a store does whose memory is the file's.
type goneStore struct{ *bolt.Store }

func (s goneStore) View(ctx context.Context, prefix string, look func(kvs []store.KV, rev uint64) error) error {
	return s.Store.View(ctx, prefix, func(kvs []store.KV, rev uint64) error {
		var shown [][]byte
		for i := range kvs {
			kvs[i].Value = bytes.Clone(kvs[i].Value)
			shown = append(shown, kvs[i].Value)
		}
		err := look(kvs, rev)
		for _, value := range shown {
			clear(value)
		}
		return err
	})
}

// startAgain starts a server on what another has left, of which it may keep nothing but what it has made of it.
func startAgain(t testing.TB, file string) *running {
	t.Helper()
	db, err := bolt.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, goneStore{db}, testConfig(t))
}

// A server that starts again has the same objects; its revision never goes back, and who watched has to list again.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	s.createPod(t, "p")
	s.createConfigMap(t, "gone")
	s.createService(t, "svc", "")
	s.do(t, "DELETE", configMapsPath+"/gone", "").want(t, 200)
	paths := []string{"/api/v1/pods", "/api/v1/services", "/api/v1/namespaces", "/api/v1/endpoints"}
	before := map[string]string{}
	for _, path := range paths {
		before[path] = string(s.do(t, "GET", path+"?limit=1000", "").want(t, 200).body)
	}
	rev := s.cache.revision()
	s.stop()

	s = startAgain(t, file)
	if now := s.cache.revision(); now < rev {
		t.Errorf("the revision went back from %d to %d", rev, now)
	}
	for _, path := range paths {
		if diff := cmp.Diff(before[path], string(s.do(t, "GET", path+"?limit=1000", "").want(t, 200).body)); diff != "" {
			t.Errorf("%s after the restart (-before +after):\n%s", path, diff)
		}
	}
	e := s.watch(t, configMapsPath+fmt.Sprintf("?resourceVersion=%d", rev-1)).next()
	if e.Type != "ERROR" || e.Object.Code != 410 {
		t.Errorf("a watch from before the restart gets %+v, want 410", e)
	}
	w := s.watch(t, configMapsPath+fmt.Sprintf("?resourceVersion=%d", rev))
	c := s.createConfigMap(t, "new")
	w.want("ADDED new")
	if n, _ := strconv.ParseUint(c.ResourceVersion, 10, 64); n <= rev {
		t.Errorf("a new object has revision %d, want more than %d", n, rev)
	}
}

// When the server stops, watches end and no request hangs.
func TestStop(t *testing.T) {
	s := start(t)
	w := s.watch(t, podsPath)
	s.stop()
	w.ended()
	s.do(t, "GET", podsPath, "").want(t, 200)
	s.do(t, "POST", podsPath, podJSON("p")).refused(t, 503, metav1.StatusReasonServiceUnavailable, "the server is stopping")
}

// A store that forgets its past before the server has read it does not stop the server.
func TestStoreThatRunsAhead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	db, err := bolt.Open(file, bolt.WithHistory(4, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := New(ctx, db, testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("c%02d", i)}}
		data, err := marshalStored(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Put(ctx, "configmaps/default/"+c.Name, data, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := srv.cache.revision() + 20
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	s := &running{srv, db, nil}
	wait, stopWaiting := context.WithTimeout(ctx, patience)
	defer stopWaiting()
	if err := srv.cache.wait(wait, want); err != nil {
		t.Fatal(err)
	}
	if list := s.list(t, ""); len(list.Items) != 20 {
		t.Errorf("%d ConfigMaps, want 20", len(list.Items))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Events go when they are an hour old.
func TestEventsExpire(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	event := func(name string, last time.Time) {
		s.do(t, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"`+name+`"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},
			"lastTimestamp":"`+last.UTC().Format(time.RFC3339)+`"}`).want(t, 201)
	}
	event("fresh", time.Now())
	event("old", time.Now())
	sh := s.shelf("events")
	old := sh.get("default/old").obj.DeepCopyObject().(*corev1.Event)
	hours := metav1.NewTime(time.Now().Add(-2 * time.Hour))
	old.LastTimestamp, old.CreationTimestamp = hours, hours
	if err := s.cache.put(context.Background(), sh, "default/old", old, sh.get("default/old").rev); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = startOn(t, file)
	deadline := time.Now().Add(patience)
	for s.shelf("events").get("default/old") != nil {
		if time.Now().After(deadline) {
			t.Fatal("the old event is still there")
		}
		s.do(t, "GET", "/api/v1/events", "").want(t, 200)
	}
	if s.shelf("events").get("default/fresh") == nil {
		t.Error("the fresh event is gone")
	}
}
