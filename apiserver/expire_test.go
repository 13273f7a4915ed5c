package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skiff/store"
	"skiff/store/bolt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// faultyStore counts deletions under way, and refuses writes on demand.
type faultyStore struct {
	store.Store
	deleting, most atomic.Int32
	broken         atomic.Bool
}

var errNoSpace = fmt.Errorf("%w: no space left on device", store.ErrRefused)

func (s *faultyStore) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if s.broken.Load() {
		return 0, errNoSpace
	}
	return s.Store.Put(ctx, key, value, rev)
}

func (s *faultyStore) Delete(ctx context.Context, key string, rev uint64) (uint64, error) {
	if s.broken.Load() {
		return 0, errNoSpace
	}
	s.most.Store(max(s.most.Load(), s.deleting.Add(1)))
	defer s.deleting.Add(-1)
	return s.Store.Delete(ctx, key, rev)
}

// startFaulty starts a server on such a store.
func startFaulty(t *testing.T) (*running, *faultyStore) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	faulty := &faultyStore{Store: db}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, faulty, testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	var background sync.WaitGroup
	background.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); background.Wait(); db.Close() })
	if err := s.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	return &running{s, faulty, nil}, faulty
}

// Events live for an hour. Those of a minute are deleted together, so that they share the waits for the disk; and if the
// store cannot do it then, a little later.
func TestEventsOfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := startFaulty(t)
		events := s.shelf("events")
		const each = 300
		make := func(round int) {
			var writers sync.WaitGroup
			for i := range each {
				writers.Go(func() {
					e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(round, "-", i), CreationTimestamp: metav1.Now()}}
					if err := s.cache.put(t.Context(), events, "default/"+e.Name, e, 0); err != nil {
						t.Error(err)
					}
				})
			}
			writers.Wait()
		}
		count := func() int { return len(events.state(s.cache).items(selectAll(events.resource))) }
		make(0)
		time.Sleep(30 * time.Minute)
		make(1)
		time.Sleep(29 * time.Minute)
		if n := count(); n != 2*each {
			t.Errorf("after 59 minutes there are %d events, want %d", n, 2*each)
		}
		time.Sleep(1*time.Minute + 2*expireEvery)
		if n := count(); n != each {
			t.Errorf("two minutes after the first hour there are %d events, want %d", n, each)
		}
		if most := faulty.most.Load(); most < expireAtOnce/2 {
			t.Errorf("%d events were deleted at a time, want up to %d", most, expireAtOnce)
		}
		faulty.broken.Store(true)
		time.Sleep(time.Hour)
		if n := count(); n != each {
			t.Errorf("with a store that refuses there are %d events, want %d", n, each)
		}
		faulty.broken.Store(false)
		time.Sleep(2 * expireEvery)
		if n := count(); n != 0 {
			t.Errorf("when the store is back there are %d events, want none", n)
		}
	})
}

// How long an Event is kept is not its writer's to say.
func TestEventOfTheFuture(t *testing.T) {
	s := start(t)
	path := "/api/v1/namespaces/default/events"
	s.do(t, "POST", path, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"e"},"involvedObject":{"namespace":"default"},"lastTimestamp":"9998-01-01T00:00:00Z"}`).want(t, 201)
	s.expireDue(t.Context(), time.Now().Add(eventLife/2))
	s.do(t, "GET", path+"/e", "").want(t, 200)
	s.expireDue(t.Context(), time.Now().Add(eventLife+time.Second))
	s.do(t, "GET", path+"/e", "").want(t, 404)
}

// readStore counts the objects that are read from a store.
type readStore struct {
	store.Store
	read atomic.Int32
}

func (s *readStore) List(ctx context.Context, prefix string) ([]store.KV, uint64, error) {
	kvs, rev, err := s.Store.List(ctx, prefix)
	s.read.Add(int32(len(kvs)))
	return kvs, rev, err
}

// Whether the store is well, and how far it is, is asked without reading what is in it.
func TestHealthReadsNoObjects(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	reading := &readStore{Store: db}
	s := startWith(t, reading, testConfig(t))
	s.createConfigMap(t, "c")
	before := reading.read.Load()
	s.do(t, "GET", "/readyz", "").want(t, 200)
	if err := s.cache.catchUp(t.Context(), s.shelf("configmaps"), "default/c"); err != nil {
		t.Fatal(err)
	}
	if n := reading.read.Load() - before; n != 0 {
		t.Errorf("%d objects were read, want none", n)
	}
}

// With a full disk reads go on, writes are errors that say why, and the server is not ready, until it has room again.
func TestFullDisk(t *testing.T) {
	s, faulty := startFaulty(t)
	s.createConfigMap(t, "c")
	faulty.broken.Store(true)
	for _, write := range []struct{ method, path, body string }{
		{"POST", configMapsPath, `{"metadata":{"name":"new"}}`},
		{"DELETE", configMapsPath + "/c", ""},
	} {
		s.do(t, write.method, write.path, write.body).refused(t, 500, metav1.StatusReasonInternalError, "no space left on device")
	}
	s.do(t, "GET", configMapsPath+"/c", "").want(t, http.StatusOK)
	s.do(t, "GET", "/livez", "").want(t, http.StatusOK)
	s.do(t, "GET", "/readyz", "").want(t, http.StatusInternalServerError)
	faulty.broken.Store(false)
	s.do(t, "GET", "/readyz", "").want(t, http.StatusOK)
	s.do(t, "DELETE", configMapsPath+"/c", "").want(t, http.StatusOK)
}
