package apiserver

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"skiff/api"
	"skiff/apiserver/custom"
	"skiff/store"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// definitions is where CustomResourceDefinitions lie. One that is served adds a shelf to the cache, whose objects lie in the
// store under the definition's name: that is the kind's plural and group, as for any other row.
const definitions = "customresourcedefinitions.apiextensions.k8s.io"

// customKind is a kind that a definition made, with its objects.
type customKind struct {
	*custom.Definition
	crd   *apiextensionsv1.CustomResourceDefinition
	shelf *shelf // Of the row that stores.
}

// customKinds are those that there are now, by the names of their definitions. They are replaced as a whole, by the one
// goroutine that applies the store's events.
type customKinds struct {
	kinds   atomic.Pointer[map[string]*customKind]
	changed func() // Called after each change, before anybody hears of the definition's revision; nil during start.
}

func (k *customKinds) all() map[string]*customKind { return *k.kinds.Load() }

func (k *customKinds) replace(kinds map[string]*customKind) {
	k.kinds.Store(&kinds)
	if k.changed != nil {
		k.changed()
	}
}

// loadDefinitions makes the kinds of all definitions that the store has, before their objects are read. Watchers of a kind
// that is no longer there are sent away.
func (c *cache) loadDefinitions(kvs []store.KV) {
	before, now := c.custom.all(), map[string]*customKind{}
	for _, kv := range kvs {
		name, ok := strings.CutPrefix(kv.Key, definitions+"/")
		if !ok {
			continue
		}
		it, err := newItem(c.resources[definitions], name, kv)
		if err != nil {
			continue // Who reads all objects tells of it.
		}
		if k := c.kindOf(it.obj.(*apiextensionsv1.CustomResourceDefinition), before[name]); k != nil {
			now[name] = k
		}
	}
	for name, k := range before {
		if !now[name].shares(k) {
			k.shelf.end()
		}
	}
	c.custom.replace(now)
}

// define follows a change of one definition; it is nil if that is gone. Objects of a kind that goes are not lost: they are there
// again when their kind is.
func (c *cache) define(name string, it *item, rev uint64) {
	before := c.custom.all()[name]
	var now *customKind
	if it != nil {
		now = c.kindOf(it.obj.(*apiextensionsv1.CustomResourceDefinition), before)
	}
	if now == before {
		return
	}
	if before != nil && !now.shares(before) {
		c.putAway(before.shelf)
		before.shelf.end()
	}
	kinds := maps.Clone(c.custom.all())
	delete(kinds, name)
	if now != nil {
		kinds[name] = now
		if now.shares(before) {
			now.shelf.conform(rev)
		} else {
			now.shelf.reset(c.takeOut(now.shelf), rev)
		}
	}
	c.custom.replace(kinds)
}

// shares tells whether a kind goes on with the objects of another.
func (k *customKind) shares(other *customKind) bool {
	return k != nil && other != nil && k.shelf.stock == other.shelf.stock
}

// kindOf is the kind that a definition makes: none, as long as its names are not accepted; the one before, if nothing has
// changed that it is made of, or if none can be made; and else a new one, with the objects of the one before.
func (c *cache) kindOf(crd *apiextensionsv1.CustomResourceDefinition, before *customKind) *customKind {
	if before != nil && before.crd.UID != crd.UID {
		before = nil
	}
	if before != nil && equality.Semantic.DeepEqual(before.crd.Spec, crd.Spec) &&
		equality.Semantic.DeepEqual(before.crd.Status.AcceptedNames, crd.Status.AcceptedNames) {
		return before
	}
	if !api.IsDefinitionTrue(crd, apiextensionsv1.NamesAccepted) && !api.IsDefinitionTrue(crd, apiextensionsv1.Established) || c.own[crd.Name] {
		return before
	}
	d, err := custom.New(crd)
	if err != nil { // It passed the checks of who stored it.
		slog.Warn("a definition makes no kind", "definition", crd.Name, "err", err)
		return before
	}
	sh := newShelf(d.Stored, c.encodings)
	if before != nil && before.crd.Spec.Scope == crd.Spec.Scope { // Else its objects have other keys.
		sh.stock = before.shelf.stock
	}
	return &customKind{d, crd, sh}
}

// conform makes all objects of a shelf ones of its row, which is another than it was. Their past is of the old row, so whoever
// watches has to begin anew.
func (s *shelf) conform(rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tree := newTree()
	s.tree.Ascend(func(it *item) bool {
		obj := it.obj.DeepCopyObject().(*unstructured.Unstructured)
		conform(s.resource, obj)
		tree.ReplaceOrInsert(&item{key: it.key, rev: it.rev, obj: obj, size: it.size, encodings: s.encodings})
		it.dropEncodings()
		return true
	})
	s.tree, s.ring, s.ringSize, s.since = tree, nil, 0, rev
	s.cutAll()
}

// end sends all watchers away, and those that are yet to come: the kind is no more.
func (s *shelf) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.cutAll()
}

// checkDefinition holds that nothing is created of a kind whose definition is on its way out. The caller calls done once it is
// created.
func (s *Server) checkDefinition(sh *shelf) (done func(), err error) {
	r := sh.resource
	refused := refusedCreate(r)
	it := s.shelf(definitions).get(r.GroupResource().String())
	if it == nil || it.meta().GetDeletionTimestamp() != nil {
		return nil, refused
	}
	done, ok := sh.gate.pass()
	if !ok {
		return nil, refused
	}
	return done, nil
}

func refusedCreate(r *api.Resource) error {
	err := apierrors.NewMethodNotSupported(r.GroupResource(), "create")
	err.ErrStatus.Message = "create not allowed while custom resource definition is terminating"
	return err
}

// takeBack deletes an object that was created too late: another server had let the definition go before it was written.
func (c *cache) takeBack(ctx context.Context, sh *shelf, key string, obj runtime.Object) error {
	if c.find(sh.resource.GroupResource().String()) != nil {
		return nil
	}
	rev, err := parseRevision(metaOf(obj).GetResourceVersion())
	if err != nil {
		return err
	}
	if err := c.remove(ctx, sh, key, rev); err != nil {
		return err
	}
	return refusedCreate(sh.resource)
}

// withSchemas gives the table's row of definitions the rules for their schemas.
func withSchemas(table []*api.Resource) {
	i := slices.IndexFunc(table, func(r *api.Resource) bool { return r.GroupResource().String() == definitions })
	r := table[i]
	validateUpdate := r.ValidateUpdate
	r.ValidateCreate = func(obj runtime.Object) field.ErrorList {
		return custom.Check(obj.(*apiextensionsv1.CustomResourceDefinition), nil)
	}
	r.ValidateUpdate = func(obj, old runtime.Object) field.ErrorList {
		errs := validateUpdate(obj, old)
		return append(errs, custom.Check(obj.(*apiextensionsv1.CustomResourceDefinition), old.(*apiextensionsv1.CustomResourceDefinition))...)
	}
}

// gate lets objects of a kind be created until the kind's deletion begins. Who is through is waited for, so that nothing is
// created after the last object was deleted.
type gate struct {
	mu     sync.RWMutex
	closed bool
}

// pass returns how to say that one is through; ok is false at a closed gate.
func (g *gate) pass() (done func(), ok bool) {
	g.mu.RLock()
	if g.closed {
		g.mu.RUnlock()
		return nil, false
	}
	return g.mu.RUnlock, true
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
