package main

import (
	"context"
	"time"

	"skiff/agent/network"
	"skiff/api"
	"skiff/reconcile"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// serviceRoutes tell the pod network which ranges ServiceCIDRs add, so that what is for an unused address of one stays on the node. That
// it is refused there is the proxy's doing, which follows the same objects.
type serviceRoutes struct {
	network *network.Network
	cidrs   networkinglisters.ServiceCIDRLister
	synced  cache.DoneChecker
	loop    *reconcile.Loop
}

// everyRange is the one key of the loop: the network is told of all ranges at once.
const everyRange = "all"

func newServiceRoutes(net *network.Network, factory informers.SharedInformerFactory) (*serviceRoutes, error) {
	cidrs := factory.Networking().V1().ServiceCIDRs()
	s := &serviceRoutes{network: net, cidrs: cidrs.Lister(), synced: cidrs.Informer().HasSyncedChecker()}
	s.loop = reconcile.New("service routes", s.reconcile)
	return s, s.loop.Watch(cidrs.Informer(), func(any) []string { return []string{everyRange} })
}

// Run follows the objects until ctx ends. Before all are known the routes of an earlier process stay as they are.
func (s *serviceRoutes) Run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", s.synced) {
		return nil
	}
	s.loop.Add(everyRange)
	s.loop.Run(ctx, 1)
	return nil
}

func (s *serviceRoutes) reconcile(context.Context, string) (time.Duration, error) {
	all, err := s.cidrs.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	return 0, s.network.SetServiceRanges(api.ServiceRanges(all))
}
