package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// customKinds are the kinds that CustomResourceDefinitions make, and definitions themselves: what can own and be owned
// besides the kinds of the table. They come and go while the garbage loop runs, each with an informer of its own. A kind is looked
// for in discovery when its definition changes, as that is where it is served from.
type customKinds struct {
	live        anyKind
	watch       func(*ownedKind, cache.SharedIndexInformer) error // Has the garbage loop hear of a kind's objects.
	definitions ownedKind
	running     sync.WaitGroup // The informers.

	mu    sync.Mutex
	kinds map[string]customKind // By the names of their definitions.
}

type customKind struct {
	*ownedKind
	stop context.CancelFunc
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func newCustomKinds(b *base, live anyKind, watch func(*ownedKind, cache.SharedIndexInformer) error) (*customKinds, error) {
	c := &customKinds{live: live, watch: watch, kinds: map[string]customKind{}}
	informer := live.informer(definitions, cache.Indexers{byOwner: ownerKeys})
	c.definitions = ownedKind{
		gvk: definitions.GroupVersion().WithKind("CustomResourceDefinition"), gvr: definitions, indexer: informer.GetIndexer(),
	}
	if err := watch(&c.definitions, informer); err != nil {
		return nil, err
	}
	loop := b.loop("custom-kinds", 1, c.Reconcile)
	if err := b.watch(loop, informer, reconcile.ObjectKey); err != nil {
		return nil, err
	}
	b.tasks = append(b.tasks, func(ctx context.Context) {
		informer.RunWithContext(ctx)
		c.running.Wait()
	})
	return c, nil
}

// all are the kinds that there are now.
func (c *customKinds) all() []*ownedKind {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []*ownedKind{&c.definitions}
	for _, name := range slices.Sorted(maps.Keys(c.kinds)) {
		all = append(all, c.kinds[name].ownedKind)
	}
	return all
}

// Reconcile begins to watch the kind of a definition, or ends it.
func (c *customKinds) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	var served *ownedKind
	if _, there, err := c.definitions.indexer.GetByKey(name); err == nil && there {
		if served, err = c.find(name); err != nil {
			return 0, err
		}
	}
	c.mu.Lock()
	have, has := c.kinds[name]
	c.mu.Unlock()
	if has && served != nil && have.gvr == served.gvr && have.gvk == served.gvk {
		return 0, nil
	}
	if has {
		have.stop()
		c.mu.Lock()
		delete(c.kinds, name)
		c.mu.Unlock()
	}
	if served == nil {
		return 0, nil
	}
	return 0, c.begin(ctx, name, served)
}

// begin watches a kind until the controllers end, or it is stopped.
func (c *customKinds) begin(ctx context.Context, name string, k *ownedKind) error {
	informer := c.live.informer(k.gvr, cache.Indexers{byOwner: ownerKeys})
	k.indexer = informer.GetIndexer()
	if err := c.watch(k, informer); err != nil {
		return fmt.Errorf("watch %s for the garbage loop: %w", name, err)
	}
	ctx, stop := context.WithCancel(ctx)
	c.mu.Lock()
	c.kinds[name] = customKind{k, stop}
	c.mu.Unlock()
	c.running.Go(func() { informer.RunWithContext(ctx) })
	return nil
}

// find looks for the kind of a definition, PLURAL.GROUP, in the versions of its group; nil where it is not served.
func (c *customKinds) find(name string) (*ownedKind, error) {
	plural, group, _ := strings.Cut(name, ".")
	groups, err := c.live.discovery.ServerGroups()
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group })
	if i < 0 {
		return nil, nil
	}
	for _, v := range groups.Groups[i].Versions {
		list, err := c.live.discovery.ServerResourcesForGroupVersion(v.GroupVersion)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		for _, r := range list.APIResources {
			if r.Name == plural {
				gv := schema.GroupVersion{Group: group, Version: v.Version}
				return &ownedKind{gvk: gv.WithKind(r.Kind), gvr: gv.WithResource(plural), namespaced: r.Namespaced}, nil
			}
		}
	}
	return nil, nil
}
