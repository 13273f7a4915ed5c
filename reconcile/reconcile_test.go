package reconcile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// start runs a loop in the bubble and returns what ends it; it fails the test if Run outlives its context.
func start(t *testing.T, l *Loop, workers int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		l.Run(ctx, workers)
		close(ended)
	}()
	return func() {
		cancel()
		<-ended // In a bubble, waiting for ever is a deadlock, which fails the test.
	}
}

// quiet drops the log lines of a test that makes calls fail on purpose.
func quiet(t *testing.T) {
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
}

// TestRetry promises that a failing key is tried again, soon at first, at most every half minute, and until it succeeds.
func TestRetry(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		const failures = 20
		var at []time.Time
		l := New("test", func(context.Context, string) (time.Duration, error) {
			at = append(at, time.Now())
			if len(at) <= failures {
				return 0, errors.New("not yet")
			}
			return 0, nil
		})
		stop := start(t, l, 1)
		l.Add("a")
		time.Sleep(time.Hour)
		synctest.Wait()
		stop()
		if len(at) != failures+1 {
			t.Fatalf("a key that fails %d times was called %d times in an hour, want %d", failures, len(at), failures+1)
		}
		if got := at[1].Sub(at[0]); got != firstRetry {
			t.Errorf("first retry after %v, want %v", got, firstRetry)
		}
		for i := 1; i < len(at); i++ {
			if got := at[i].Sub(at[i-1]); got > lastRetry {
				t.Errorf("retry %d after %v, want at most %v", i, got, lastRetry)
			}
		}
	})
}

// TestRetryForgets promises that success ends the back-off: the next failure is retried soon again.
func TestRetryForgets(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		outcome := []error{errors.New("1"), errors.New("2"), errors.New("3"), nil, errors.New("4"), nil}
		l := New("test", func(context.Context, string) (time.Duration, error) {
			at = append(at, time.Now())
			return 0, outcome[len(at)-1]
		})
		stop := start(t, l, 1)
		l.Add("a")
		time.Sleep(time.Minute)
		l.Add("a")
		time.Sleep(time.Minute)
		stop()
		if len(at) != len(outcome) {
			t.Fatalf("called %d times, want %d", len(at), len(outcome))
		}
		if got := at[5].Sub(at[4]); got != firstRetry {
			t.Errorf("the first failure after a success is retried after %v, want %v", got, firstRetry)
		}
	})
}

// TestAgain promises that a positive duration brings the next call after exactly that time, and zero brings none.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		l := New("test", func(context.Context, string) (time.Duration, error) {
			at = append(at, time.Since(begin))
			if len(at) < 3 {
				return 40 * time.Second, nil
			}
			return 0, nil
		})
		stop := start(t, l, 1)
		l.Add("a")
		time.Sleep(time.Hour)
		stop()
		want := []time.Duration{0, 40 * time.Second, 80 * time.Second}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Errorf("times of the calls (-want +got):\n%s", diff)
		}
	})
}

// TestAgainDespiteError promises that what becomes due by the clock does not wait for the back-off of a key that fails.
func TestAgainDespiteError(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		l := New("test", func(context.Context, string) (time.Duration, error) {
			calls++
			return time.Second, errors.New("never")
		})
		stop := start(t, l, 1)
		l.Add("a")
		time.Sleep(time.Hour)
		stop()
		if calls < 3600 {
			t.Errorf("a key that is due each second was called %d times in an hour", calls)
		}
	})
}

// TestAddAfter promises that a key added for later is not called earlier.
func TestAddAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		l := New("test", func(context.Context, string) (time.Duration, error) {
			at = append(at, time.Since(begin))
			return 0, nil
		})
		stop := start(t, l, 1)
		l.AddAfter("a", 3*time.Second)
		time.Sleep(time.Minute)
		stop()
		if diff := cmp.Diff([]time.Duration{3 * time.Second}, at); diff != "" {
			t.Errorf("times of the calls (-want +got):\n%s", diff)
		}
	})
}

// TestPanic promises that a panic is a failure of that key alone, and is retried.
func TestPanic(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		calls := map[string]int{}
		l := New("test", func(_ context.Context, key string) (time.Duration, error) {
			calls[key]++
			if key == "broken" && calls[key] < 3 {
				panic("broken object")
			}
			return 0, nil
		})
		stop := start(t, l, 1)
		l.Add("broken")
		l.Add("sound")
		time.Sleep(time.Minute)
		stop()
		if diff := cmp.Diff(map[string]int{"broken": 3, "sound": 1}, calls); diff != "" {
			t.Errorf("calls by key (-want +got):\n%s", diff)
		}
	})
}

// TestNeverTwiceAtOnce promises that a key is in one worker's hands only, and that what is added meanwhile is not lost.
func TestNeverTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, calls, others atomic.Int32
		l := New("test", func(_ context.Context, key string) (time.Duration, error) {
			if key != "a" {
				others.Add(1)
				return 0, nil
			}
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			calls.Add(1)
			return 0, nil
		})
		stop := start(t, l, 8)
		l.Add("a")
		synctest.Wait()
		for range 100 { // While the first call is under way.
			l.Add("a")
			l.Add("b")
		}
		synctest.Wait()
		if others.Load() == 0 {
			t.Error("key b waits for key a although workers are free")
		}
		time.Sleep(time.Minute)
		stop()
		if most.Load() != 1 {
			t.Errorf("%d calls for one key at once, want 1", most.Load())
		}
		if calls.Load() != 2 {
			t.Errorf("%d calls for a key added before and many times during its call, want 2", calls.Load())
		}
	})
}

// TestRunWaits promises that Run returns only when the calls under way have.
func TestRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := false
		l := New("test", func(context.Context, string) (time.Duration, error) {
			time.Sleep(time.Second)
			done = true
			return time.Millisecond, nil
		})
		stop := start(t, l, 2)
		l.Add("a")
		synctest.Wait()
		stop()
		if !done {
			t.Error("Run returned before the call under way had ended")
		}
	})
}

// TestWatch promises that a change adds the keys of both the old and the new object, and that creation and deletion add
// theirs.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		factory := informers.NewSharedInformerFactory(client, 0)
		informer := factory.Core().V1().ConfigMaps().Informer()
		calls := map[string]int{}
		l := New("test", func(_ context.Context, key string) (time.Duration, error) {
			calls[key]++
			return 0, nil
		})
		err := l.Watch(informer, func(obj any) []string { return []string{obj.(*corev1.ConfigMap).Data["key"]} })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		stop := start(t, l, 1)
		step := func(what string, err error, want map[string]int) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			time.Sleep(time.Second) // In the bubble this takes no time; it lets the watch deliver.
			synctest.Wait()
			if diff := cmp.Diff(want, calls); diff != "" {
				t.Errorf("calls after %s (-want +got):\n%s", what, diff)
			}
			clear(calls)
		}
		api := client.CoreV1().ConfigMaps("default")
		object := func(key string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"}, Data: map[string]string{"key": key}}
		}
		_, err = api.Create(ctx, object("old"), metav1.CreateOptions{})
		step("create", err, map[string]int{"old": 1})
		_, err = api.Update(ctx, object("new"), metav1.UpdateOptions{})
		step("update", err, map[string]int{"old": 1, "new": 1})
		step("delete", api.Delete(ctx, "c", metav1.DeleteOptions{}), map[string]int{"new": 1})
		stop()
		cancel()
		factory.Shutdown()
	})
}
