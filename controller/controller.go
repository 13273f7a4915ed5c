// Package controller holds the control loops that turn what a user wants into objects that nodes can act on: a Deployment
// into ReplicaSets, a ReplicaSet into Pods, a Service and its Pods into EndpointSlices; and those that keep house:
// namespaces are emptied, dependents of deleted owners removed, silent nodes marked and their pods evicted, disruption budgets
// kept up to date. A Service of type LoadBalancer gets the addresses of the nodes, as there is no cloud to ask. Claims are bound
// to volumes, and one of the class local that fits none gets one on a node's own disk. Ranges of Services' addresses are kept
// while in use.
//
// Each controller has a file of its own, always in one order: what it does, its struct, its constructor, Reconcile, and
// then the pure functions in which it decides. Reconcile gets a key, reads the informers' caches, and writes through the
// client. The caches may lag behind, and no controller does harm when they do: writes carry the resourceVersion that they
// were decided on, created names are derived or expected, and what deletes reads the live object first. What a lister
// returns is shared with everybody and is copied before it is changed.
//
// In Kubernetes: kube-controller-manager, and the cloud's part of a Service. Left out so far: the controllers of the kinds that
// are only stored (jobs, daemon sets, stateful sets, autoscalers, quotas), the signing of certificates, and attaching volumes.
// Leader election is cmd/skiff's.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// Config is what the controllers need to know besides what the API says.
type Config struct {
	// RootCA is the certificate authority of the API server, PEM. Every namespace gets it as ConfigMap
	// kube-root-ca.crt. Empty: that ConfigMap is not made.
	RootCA []byte
	// SecretToken signs the token of a ServiceAccount that a Secret of type kubernetes.io/service-account-token is to hold.
	// nil: such Secrets are left as they are.
	SecretToken func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	// ClusterCIDR are the ranges, one or one of each family, from which each Node gets a /24, or a /64 of IPv6, as spec.podCIDRs. None:
	// nodes get none.
	ClusterCIDR []netip.Prefix
	// ReservedPorts are TCP ports of the nodes that the cluster itself needs. No Service of type LoadBalancer gets them.
	ReservedPorts []uint16
	// Traffic, if not nil, is asked whether a pod that is ready gets requests before it counts as available.
	Traffic Traffic

	rangeGrace time.Duration // How long a deleted ServiceCIDR stays at least; 0 for as long as in Kubernetes.
}

// Controllers is all control loops together. Build it with [New].
type Controllers struct {
	base
	events *reconcile.Events
}

// base is what every controller is built from: the client, the informers, and the list in which it enters its loop.
type base struct {
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	loops   []runnable
	tasks   []func(ctx context.Context) // What runs beside the loops, from before they begin until ctx ends.
	synced  []cache.DoneChecker
}

type runnable struct {
	loop    *reconcile.Loop
	workers int
}

// New builds all controllers. It asks the factory for the informers that they need, so start the factory afterwards.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, config Config) (*Controllers, error) {
	c := &Controllers{base: base{client: client, factory: factory}, events: reconcile.NewEvents(client)}
	recorder := c.events.Recorder
	err := errors.Join(
		newDeployments(&c.base, recorder("deployment-controller")),
		newReplicaSets(&c.base, recorder("replicaset-controller"), config.Traffic),
		newReplicationControllers(&c.base, recorder("replication-controller"), config.Traffic),
		newEndpointSlices(&c.base, recorder("endpoint-slice-controller")),
		newEndpoints(&c.base, recorder("endpoint-controller")),
		newMirrors(&c.base, recorder("endpoint-slice-mirroring-controller")),
		newNamespaces(&c.base),
		newServiceAccounts(&c.base),
		newRootCAs(&c.base, config.RootCA),
		newAccountTokens(&c.base, config.RootCA, config.SecretToken),
		newGarbage(&c.base),
		newNodes(&c.base, recorder("node-controller")),
		newOutages(&c.base),
		newTaintEvictions(&c.base, recorder("taint-eviction-controller")),
		newNodeRanges(&c.base, config.ClusterCIDR),
		newLostPods(&c.base),
		newDisruptions(&c.base, recorder("disruption-controller")),
		newClaims(&c.base, recorder("persistentvolume-controller")),
		newVolumes(&c.base, recorder("persistentvolume-controller")),
		newClaimProtection(&c.base),
		newVolumeProtection(&c.base),
		newClassProtection(&c.base),
		newEphemeralVolumes(&c.base, recorder("ephemeral-volume-controller")),
		newServiceCIDRs(&c.base, cmp.Or(config.rangeGrace, rangeGrace)),
		newServiceLB(&c.base, recorder("service-lb-controller"), config.ReservedPorts),
	)
	if err != nil {
		return nil, fmt.Errorf("build the controllers: %w", err)
	}
	return c, nil
}

// Run works until ctx ends, after the informers have their first full list. It returns when the last call has returned.
func (c *Controllers) Run(ctx context.Context) error {
	c.events.Start()
	defer c.events.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, task := range c.tasks {
		wg.Go(func() { task(ctx) })
	}
	if !cache.WaitFor(ctx, "", c.synced...) {
		return fmt.Errorf("run the controllers: %w before the informers were filled", context.Cause(ctx))
	}
	for _, r := range c.loops {
		wg.Go(func() { r.loop.Run(ctx, r.workers) })
	}
	return nil
}

// loop makes a controller's loop and enters it in the list of those to run.
func (b *base) loop(name string, workers int, do reconcile.Func) *reconcile.Loop {
	l := reconcile.New(name, do)
	b.loops = append(b.loops, runnable{l, workers})
	return l
}

// watch lets keys of what happens in an informer into a loop, as [reconcile.Loop.Watch] does.
func (b *base) watch(loop *reconcile.Loop, informer cache.SharedIndexInformer, keys func(obj any) []string) error {
	b.needs(informer)
	return loop.Watch(informer, keys)
}

// handle calls the functions of h, any of which may be nil, for what happens in an informer. It is for the controllers
// to which it matters what happened, not only to whom.
func (b *base) handle(informer cache.SharedIndexInformer, h cache.ResourceEventHandlerFuncs) error {
	b.needs(informer)
	return listen(informer, h)
}

// listen is handle for an informer that may fill while the controllers run.
func listen(informer cache.SharedIndexInformer, h cache.ResourceEventHandlerFuncs) error {
	if gone := h.DeleteFunc; gone != nil {
		h.DeleteFunc = func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			gone(obj)
		}
	}
	_, err := informer.AddEventHandler(h)
	return err
}

// needs makes Run wait for the informer's first full list.
func (b *base) needs(informer cache.SharedIndexInformer) {
	b.synced = append(b.synced, informer.HasSyncedChecker())
}
