package clients

import (
	"context"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// testElection has two candidates. The lease is longer than the test waits: the second leads only because the first let go.
func testElection(t *testing.T, s *server) {
	space := s.space(t)
	leads := make(chan string, 2)
	candidate := func(name string) (resign func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: &resourcelock.LeaseLock{
					LeaseMeta:  metav1.ObjectMeta{Namespace: space, Name: "bridge"},
					Client:     s.client(t).CoordinationV1(),
					LockConfig: resourcelock.ResourceLockConfig{Identity: name},
				},
				LeaseDuration: 3 * patience, RenewDeadline: 2 * patience, RetryPeriod: 50 * time.Millisecond,
				ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) { leads <- name },
					OnStoppedLeading: func() {},
				},
			})
		})
		return func() { cancel(); group.Wait() }
	}
	await := func(want string) {
		t.Helper()
		select {
		case got := <-leads:
			if got != want {
				t.Errorf("%s leads, want %s", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%s does not lead", want)
		}
	}
	resign := candidate("captain")
	await("captain")
	second := candidate("mate")
	defer second()
	lease := s.client(t).CoordinationV1().Leases(space)
	before, err := lease.Get(t.Context(), "bridge", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // The first renews, and the second has had its chances.
		now, err := lease.Get(t.Context(), "bridge", metav1.GetOptions{})
		if err == nil && now.Spec.RenewTime.Sub(before.Spec.RenewTime.Time) < 500*time.Millisecond {
			err = context.DeadlineExceeded
		}
		return err
	})
	if len(leads) > 0 {
		t.Fatalf("%s leads beside the captain", <-leads)
	}
	resign()
	await("mate")
	after, err := lease.Get(t.Context(), "bridge", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if holder := after.Spec.HolderIdentity; holder == nil || *holder != "mate" || *after.Spec.LeaseTransitions == 0 {
		t.Errorf("after the change the lease is %v", after.Spec)
	}
}
