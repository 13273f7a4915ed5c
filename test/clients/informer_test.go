package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// TestInformerOverRestarts promises that an informer misses nothing and is told nothing twice while the server is killed,
// and stopped, and comes back.
func TestInformerOverRestarts(t *testing.T) {
	s := start(t)
	space := s.space(t)
	boats := s.client(t).CoreV1().ConfigMaps(space)

	config := s.config(t)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	var watchLists atomic.Int64
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("sendInitialEvents") == "true" {
				watchLists.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(space))
	informer := factory.Core().V1().ConfigMaps().Informer()
	seen := &logbook{t: t, now: map[string]string{}, lives: map[string]int{}}
	if _, err := informer.AddEventHandler(seen); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	defer factory.Shutdown()
	defer close(stop)
	if !cache.WaitForCacheSync(stop, informer.HasSynced) {
		t.Fatal("the informer does not sync")
	}

	written := make(chan int)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(written)
		for i := range 60 {
			voyage(t, boats, fmt.Sprintf("boat-%02d", i))
			written <- i
		}
	})
	for i := range written {
		switch i {
		case 15:
			s.stop(t, syscall.SIGKILL)
		case 40:
			s.stop(t, syscall.SIGTERM)
		default:
			continue
		}
		s.launch(t)
	}
	group.Wait()

	list, err := boats.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, boat := range list.Items {
		want[boat.Name] = boat.ResourceVersion
	}
	eventually(t, func() error { return seen.matches(want) })
	if watchLists.Load() == 0 {
		t.Error("the informer has not asked for initial events")
	}
}

// voyage makes an object, changes it twice and, of each third, removes it; each write until it is acknowledged.
func voyage(t *testing.T, boats typedcorev1.ConfigMapInterface, name string) {
	insist(t, "create "+name, func(ctx context.Context) error {
		_, err := boats.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // Of an attempt that was not answered.
		}
		return err
	})
	for _, position := range []string{"out", "home"} {
		insist(t, "update "+name, func(ctx context.Context) error {
			boat, err := boats.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			boat.Data = map[string]string{"position": position}
			_, err = boats.Update(ctx, boat, metav1.UpdateOptions{})
			return err
		})
	}
	if name[len(name)-1]%3 != 0 {
		return
	}
	insist(t, "delete "+name, func(ctx context.Context) error {
		if err := boats.Delete(ctx, name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
}

// insist calls f until it succeeds.
func insist(t *testing.T, doing string, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Errorf("%s: %v", doing, err)
			return
		}
	}
}

// logbook is what an informer told of objects. It reports what cannot be.
type logbook struct {
	t     *testing.T
	mu    sync.Mutex
	now   map[string]string // Resource version by name.
	lives map[string]int    // How often a name was added.
}

func (l *logbook) OnAdd(obj any, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	boat := obj.(*corev1.ConfigMap)
	if l.lives[boat.Name]++; l.lives[boat.Name] > 1 {
		l.t.Errorf("%s is added a second time", boat.Name)
	}
	l.now[boat.Name] = boat.ResourceVersion
}

func (l *logbook) OnUpdate(before, after any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	boat := after.(*corev1.ConfigMap)
	old, current := before.(*corev1.ConfigMap).ResourceVersion, boat.ResourceVersion
	if old == current {
		return // The informer has listed again, and found no change.
	}
	if l.now[boat.Name] != old || revision(current) <= revision(old) {
		l.t.Errorf("%s is updated from %s to %s; last told was %s", boat.Name, old, current, l.now[boat.Name])
	}
	l.now[boat.Name] = current
}

func (l *logbook) OnDelete(obj any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	name := obj.(*corev1.ConfigMap).Name
	if _, ok := l.now[name]; !ok {
		l.t.Errorf("%s is deleted, and was not there", name)
	}
	delete(l.now, name)
}

func (l *logbook) matches(want map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !maps.Equal(l.now, want) {
		return fmt.Errorf("the informer has %v, want %v", l.now, want)
	}
	return nil
}

func revision(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(err) // Resource versions are numbers since Kubernetes 1.35.
	}
	return n
}

// testUntilWithSync waits for what is there already, and for what comes.
func testUntilWithSync(t *testing.T, s *server) {
	space := s.space(t)
	client := s.client(t)
	signals := client.CoreV1().ConfigMaps(space)
	beacon := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "beacon"}, Data: map[string]string{"light": "off"}}
	if _, err := signals.Create(t.Context(), beacon, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one := fields.OneTermEqualSelector(metav1.ObjectNameField, "beacon")
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", space, one)
	synced := func(store cache.Store) (bool, error) {
		if names := store.ListKeys(); len(names) != 1 {
			return false, fmt.Errorf("the store has %v, want beacon alone", names)
		}
		return false, nil
	}
	off := func(event watch.Event) (bool, error) {
		if event.Type != watch.Added {
			return false, errors.New("the watch does not begin with what is there")
		}
		// What the next condition waits for.
		_, err := signals.Update(ctx, &corev1.ConfigMap{ObjectMeta: beacon.ObjectMeta, Data: map[string]string{"light": "on"}}, metav1.UpdateOptions{})
		return true, err
	}
	on := func(event watch.Event) (bool, error) {
		boat, ok := event.Object.(*corev1.ConfigMap)
		return ok && event.Type == watch.Modified && boat.Data["light"] == "on", nil
	}
	if _, err := toolswatch.UntilWithSync(ctx, lw, &corev1.ConfigMap{}, synced, off, on); err != nil {
		t.Error(err)
	}
}
