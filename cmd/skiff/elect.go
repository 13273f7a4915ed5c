package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// singleton is a component of which one may work at a time, however many servers the cluster has.
type singleton struct {
	lease string // The Lease in kube-system by which they are elected. The names are Kubernetes', so a real kube-scheduler can take part.
	build func(context.Context, informers.SharedInformerFactory) (component, error)
}

// Times of the election, as in Kubernetes: a server that ends without a word is replaced after leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// elect runs a singleton while this server is the one elected, until ctx ends. Each term has informers of its own: they
// start after the election, in which this server's memory has come to all that the one before wrote.
func (p *plane) elect(ctx context.Context, client kubernetes.Interface, s singleton) error {
	identity := p.nodeName + "_" + string(uuid.NewUUID())
	for ctx.Err() == nil {
		err := term(ctx, client, s.lease, identity, func(ctx context.Context) error {
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

// term waits to be elected and works until ctx ends or the Lease is lost. It gives the Lease back only when the work has
// ended, so that two never work at once.
func term(ctx context.Context, client kubernetes.Interface, lease, identity string, work func(context.Context) error) error {
	elected := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: lease},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { elected <- leading },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("elect by lease %s: %w", lease, err)
	}
	candidate, resign := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(candidate) }()
	defer func() { resign(); <-ended }()
	select {
	case <-ctx.Done():
		return nil
	case leading := <-elected:
		leading, stop := context.WithCancel(leading) // Ends when the Lease is lost.
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		err := work(leading)
		if leading.Err() != nil {
			return nil
		}
		return err
	}
}
