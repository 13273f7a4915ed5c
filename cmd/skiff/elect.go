package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"
)

// singleton is a component of which one may work at a time, however many servers the cluster has.
type singleton struct {
	lease string // The Lease in kube-system by which they are elected. The names are Kubernetes', so a real kube-scheduler can take part.
	build func(context.Context, informers.SharedInformerFactory) (component, error)
}

// times of the election: a server that ends without a word is replaced after lease. One that gives its Lease back is
// replaced at once.
type times struct{ lease, renew, retry time.Duration }

// electionTimes are Kubernetes' own.
var electionTimes = times{lease: 15 * time.Second, renew: 10 * time.Second, retry: 2 * time.Second}

// elect runs a singleton while this server is the one elected, until ctx ends. Each term has informers of its own: they
// start after the election, in which this server's memory has come to all that the one before wrote.
func (p *plane) elect(ctx context.Context, client kubernetes.Interface, s singleton) error {
	identity := p.nodeName + "_" + string(uuid.NewUUID())
	for ctx.Err() == nil {
		c := candidate{client: client, lease: s.lease, identity: identity, times: electionTimes}
		err := c.term(ctx, func(ctx context.Context) error {
			slog.Info("elected", "lease", s.lease)
			return p.runAlone(ctx, client, s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *plane) runAlone(ctx context.Context, client kubernetes.Interface, s singleton) error {
	factory := p.shared(client)
	c, err := s.build(ctx, factory)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	defer factory.Shutdown()
	defer close(stop)
	factory.Start(stop)
	return c.Run(ctx)
}

// candidate is one who stands for election.
type candidate struct {
	client          kubernetes.Interface
	lease, identity string
	times
}

// term waits to be elected and works until ctx ends or the Lease is lost. It gives the Lease back only when the work has
// ended, so that two never work at once.
func (c candidate) term(ctx context.Context, work func(context.Context) error) error {
	for {
		again, err := c.stand(ctx, work)
		if !again {
			return err
		}
	}
}

// stand is one candidacy. It ends too, to begin again, when the Lease was given back: the elector looks only now and then,
// but at its start.
func (c candidate) stand(ctx context.Context, work func(context.Context) error) (again bool, err error) {
	elected := make(chan context.Context, 1)
	elector, err := c.elector(elected)
	if err != nil {
		return false, err
	}
	watching, stopWatching := context.WithCancel(ctx)
	released := c.watchRelease(watching) // From before the elector looks.
	standing, resign := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(standing) }()
	defer func() { stopWatching(); resign(); <-ended }()
	select {
	case <-ctx.Done():
		return false, nil
	case <-released:
		return true, nil
	case leading := <-elected:
		stopWatching()
		leading, stop := context.WithCancel(leading) // Ends when the Lease is lost.
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		err := work(leading)
		if leading.Err() != nil {
			return false, nil
		}
		return false, err
	}
}

func (c candidate) elector(elected chan<- context.Context) (*leaderelection.LeaderElector, error) {
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: c.lease},
			Client:     c.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.identity},
		},
		LeaseDuration: c.times.lease, RenewDeadline: c.renew, RetryPeriod: c.retry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { elected <- leading },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("elect by lease %s: %w", c.lease, err)
	}
	return elector, nil
}

// watchRelease returns a channel that is closed when another gives the Lease back. While it cannot be watched the elector finds
// out by itself, only later.
func (c candidate) watchRelease(ctx context.Context) <-chan struct{} {
	released := make(chan struct{})
	first, err := c.watch(ctx)
	go func() { // Ends with ctx.
		held := false
		for w := first; ctx.Err() == nil; w, err = c.watch(ctx) {
			if err == nil && sawRelease(w, &held) {
				close(released)
				return
			}
			select {
			case <-time.After(c.retry):
			case <-ctx.Done():
			}
		}
	}()
	return released
}

func (c candidate) watch(ctx context.Context) (watch.Interface, error) {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, c.lease).String()
	return c.client.CoordinationV1().Leases(metav1.NamespaceSystem).Watch(ctx, metav1.ListOptions{FieldSelector: only})
}

// sawRelease reads a watch of the Lease until somebody who held it does so no more, or to its end. It begins with the Lease as it is.
func sawRelease(w watch.Interface, held *bool) bool {
	defer w.Stop()
	for event := range w.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if !ok {
			return false
		}
		free := event.Type == watch.Deleted || ptr.Deref(lease.Spec.HolderIdentity, "") == ""
		if free && *held {
			return true
		}
		*held = !free
	}
	return false
}
