package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"skiff/api"
	"skiff/store"

	"github.com/google/btree"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// cache is the whole store in memory, as decoded objects. Reads and watches are answered from it alone; writes go to the
// store, and the cache learns of them only from the store's watch, so that there is one order of events for all.
type cache struct {
	store     store.Store
	newest    *newest           // nil if nobody else writes to the store.
	resources map[string]*shelf // Of the table's rows that store, by "pods", "deployments.apps": the first part of a key in the store.
	own       map[string]bool   // All names of that form that the table has.
	custom    customKinds       // What definitions add to that.
	strays    strays            // What lies on no shelf.
	alike     alike             // What the objects of events have in common.
	encodings *encodings        // How they read on the wire.

	order sync.RWMutex // Held for writing while an event is put on its shelf, for reading by who wants all shelves at one revision.

	mu      sync.Mutex
	applied uint64              // All events up to this revision are in the shelves and with their watchers.
	waiting map[uint64]*waiters // Those who wait for a revision.

	stopped chan struct{} // Closed when run ends: nothing is applied any more.
}

// waiters wait for one revision.
type waiters struct {
	come  chan struct{} // Closed when the revision is applied.
	count int           // The last who gives up clears up: a client may ask for a revision that never comes.
}

// errStopped is what a request hears that comes too late.
var errStopped = apierrors.NewServiceUnavailable("the server is stopping")

// newCache loads what the store has. Its run method must follow.
func newCache(ctx context.Context, s store.Store, table []*api.Resource) (*cache, error) {
	c := &cache{
		store:     s,
		resources: map[string]*shelf{},
		encodings: &encodings{most: keptEncodings},
		own:       map[string]bool{},
		waiting:   map[uint64]*waiters{},
		stopped:   make(chan struct{}),
	}
	if shared, ok := s.(store.Shared); ok {
		c.newest = &newest{store: shared}
	}
	for _, r := range table {
		c.own[r.GroupResource().String()] = true
		if r.Keeps() {
			c.resources[r.GroupResource().String()] = newShelf(r, c.encodings)
		}
	}
	c.custom.replace(map[string]*customKind{})
	return c, c.load(ctx)
}

// shelf is the row's own, or, for a view, one with the stock of the row that stores. What is not stored has none.
func (c *cache) shelf(r *api.Resource) *shelf {
	sh := c.find(r.Stored().GroupResource().String())
	if r.View != nil {
		return &shelf{r, sh.stock}
	}
	return sh
}

// find returns the shelf of the row that stores under this first part of a key; nil if there is none.
func (c *cache) find(resource string) *shelf {
	if sh := c.resources[resource]; sh != nil {
		return sh
	}
	if k := c.custom.all()[resource]; k != nil {
		return k.shelf
	}
	return nil
}

// shelves are those of all rows that store.
func (c *cache) shelves() []*shelf {
	all := slices.Collect(maps.Values(c.resources))
	for _, k := range c.custom.all() {
		all = append(all, k.shelf)
	}
	return all
}

func newTree() *btree.BTreeG[*item] {
	return btree.NewG(32, func(a, b *item) bool { return a.key < b.key })
}

// load takes over what the store holds now. Its past is unknown then: whoever watches has to begin anew.
func (c *cache) load(ctx context.Context) error {
	if err := c.view(ctx, c.take); err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	return nil
}

// view looks at what the store holds, which is not copied if the store can do that.
func (c *cache) view(ctx context.Context, look func(kvs []store.KV, rev uint64) error) error {
	if viewer, ok := c.store.(store.Viewer); ok {
		return viewer.View(ctx, "", look)
	}
	kvs, rev, err := c.store.List(ctx, "")
	if err != nil {
		return err
	}
	return look(kvs, rev)
}

// take makes the objects of all shelves, and keeps nothing of the values that they were stored as.
func (c *cache) take(kvs []store.KV, rev uint64) error {
	c.loadDefinitions(kvs)
	c.strays = strays{}
	trees := map[*shelf]*btree.BTreeG[*item]{}
	for _, s := range c.shelves() {
		trees[s] = newTree()
	}
	kvs = slices.DeleteFunc(kvs, func(kv store.KV) bool { return isRecord(kv.Key) })
	for i, f := range c.readAll(kvs) {
		if f.err != nil {
			kvs[i].Value = bytes.Clone(kvs[i].Value)
			c.strays.add(kvs[i], f.err)
			continue
		}
		trees[f.shelf].ReplaceOrInsert(f.item)
	}
	c.order.Lock()
	defer c.order.Unlock()
	for s, tree := range trees {
		s.reset(tree, rev)
	}
	c.reached(rev)
	return nil
}

// run applies the store's events until ctx ends.
func (c *cache) run(ctx context.Context) error {
	defer close(c.stopped)
	for {
		err := c.follow(ctx)
		switch {
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		case !errors.Is(err, store.ErrCompacted):
			return fmt.Errorf("follow the store: %w", err)
		}
		slog.Warn("the store ran ahead of the API server's memory, which is read anew")
		if err := c.reload(ctx); err != nil {
			return err
		}
	}
}

// reload loads, again and again for as long as the store is away.
func (c *cache) reload(ctx context.Context) error {
	for {
		err := c.load(ctx)
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(reloadPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// reloadPause is between two tries to load.
const reloadPause = time.Second

func (c *cache) follow(ctx context.Context) error {
	for ev, err := range c.store.Watch(ctx, "", c.revision()) {
		if err != nil {
			return err
		}
		c.apply(ev)
	}
	return ctx.Err()
}

func (c *cache) apply(ev store.Event) {
	if isRecord(ev.Key) {
		c.reached(ev.Rev)
		return
	}
	c.strays.remove(ev.Key)
	shelf, key := c.locate(ev.Key)
	var it *item
	if !ev.Deleted {
		var err error
		if it, err = c.alike.newItem(shelf, key, ev.KV); err != nil {
			c.strays.add(ev.KV, err)
		}
	}
	c.order.Lock()
	defer c.order.Unlock()
	if shelf != nil {
		if shelf == c.resources[definitions] { // Its kind is served before anybody can read that it is.
			c.define(key, it, ev.Rev)
		}
		shelf.apply(key, ev.Rev, it)
	}
	c.reached(ev.Rev)
}

// reached wakes those who wait for rev or an older revision.
func (c *cache) reached(rev uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = rev
	for want, w := range c.waiting {
		if want <= rev {
			close(w.come)
			delete(c.waiting, want)
		}
	}
}

// records is what the keys of the server's own notes begin with, which are no objects of the API.
const records = "skiff/"

func isRecord(storeKey string) bool { return strings.HasPrefix(storeKey, records) }

// locate finds the shelf that a key of the store belongs to; nil if there is none.
func (c *cache) locate(storeKey string) (*shelf, string) {
	resource, key, _ := strings.Cut(storeKey, "/")
	return c.find(resource), key
}

// found is an object of the store with the shelf that it belongs on, or why it is none.
type found struct {
	shelf *shelf
	item  *item
	err   error
}

// readAll reads on all processors.
func (c *cache) readAll(kvs []store.KV) []found {
	all := make([]found, len(kvs))
	var readers errgroup.Group
	readers.SetLimit(goruntime.GOMAXPROCS(0))
	for from := 0; from < len(kvs); from += readAtOnce {
		readers.Go(func() error {
			var alike alike // Of its own: neighbours have most in common.
			for i := from; i < min(from+readAtOnce, len(kvs)); i++ {
				sh, key := c.locate(kvs[i].Key)
				it, err := alike.newItem(sh, key, kvs[i])
				all[i] = found{sh, it, err}
			}
			return nil
		})
	}
	_ = readers.Wait() // It has no error to tell.
	return all
}

const readAtOnce = 512

// newItem makes an object of what is stored; sh is nil if it belongs on no shelf. An error is no reason to stop: the server goes on
// without what it cannot read.
func newItem(sh *shelf, key string, kv store.KV) (*item, error) {
	return new(alike).newItem(sh, key, kv)
}

func (a *alike) newItem(sh *shelf, key string, kv store.KV) (*item, error) {
	if sh == nil {
		return nil, errNoKind
	}
	r := sh.resource
	obj, spec, err := a.unmarshalStored(r, kv.Value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kv.Key, err)
	}
	if !isKeyOf(r, key, metaOf(obj)) {
		return nil, fmt.Errorf("%s: the stored %s has another name, or another scope than its kind", kv.Key, r.Kind)
	}
	setRevision(obj, kv.Rev)
	return &item{key: key, rev: kv.Rev, obj: obj, spec: spec, size: len(kv.Value), encodings: sh.encodings}, nil
}

// put writes obj under key if rev is still its revision there (0: it must not exist), waits until readers see it, and
// sets the new revision in obj. Errors are the store's.
//
// A write that has begun is waited for also when the client goes away: what is allocated for an object must not be given
// to another while it is open whether the first was stored.
func (c *cache) put(ctx context.Context, s *shelf, key string, obj runtime.Object, rev uint64) error {
	data, err := marshalStored(obj)
	if err != nil {
		return err
	}
	return c.putStored(ctx, s, key, obj, data, rev)
}

// putStored does the same with an object whose stored form is known.
func (c *cache) putStored(ctx context.Context, s *shelf, key string, obj runtime.Object, data []byte, rev uint64) error {
	if len(data) > maxObject {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxObject))
	}
	ctx = context.WithoutCancel(ctx)
	written, err := c.store.Put(ctx, s.storeKey(key), data, rev)
	if err != nil {
		return openOutcome(err)
	}
	setRevision(obj, written)
	return unseen(c.settle(ctx, written))
}

// openOutcome marks a write of which nobody knows whether it happened: the store went away in the middle of it.
func openOutcome(err error) error {
	if errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("%w: %w", errOpenOutcome, err)
	}
	return err
}

// unseen marks a write that was done, but that readers may not see for a while: who asked for it gets an error.
func unseen(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", errOpenOutcome, err)
	}
	return nil
}

var errOpenOutcome = errors.New("it is not known whether the write was done")

// remove deletes key if rev is still its revision and waits until readers see it, as put does.
func (c *cache) remove(ctx context.Context, s *shelf, key string, rev uint64) error {
	ctx = context.WithoutCancel(ctx)
	deleted, err := c.store.Delete(ctx, s.storeKey(key), rev)
	if err != nil {
		return openOutcome(err)
	}
	return unseen(c.settle(ctx, deleted))
}

// catchUp waits until readers see what the store holds under key now. After a lost race it is that which counts.
func (c *cache) catchUp(ctx context.Context, s *shelf, key string) error {
	_, rev, err := c.store.List(ctx, s.storeKey(key)+"\x00") // Under which there is nothing: the revision alone is wanted.
	if err != nil {
		return err
	}
	return c.wait(ctx, rev)
}

// wait blocks until all events up to revision rev are applied.
func (c *cache) wait(ctx context.Context, rev uint64) error {
	c.mu.Lock()
	if c.applied >= rev {
		c.mu.Unlock()
		return nil
	}
	w := c.waiting[rev]
	if w == nil {
		w = &waiters{come: make(chan struct{})}
		c.waiting[rev] = w
	}
	w.count++
	c.mu.Unlock()
	defer c.giveUp(rev, w)
	select {
	case <-w.come:
		return nil
	case <-c.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUp ends one's waiting for a revision, whether it has come or not.
func (c *cache) giveUp(rev uint64, w *waiters) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.count--
	if w.count == 0 && c.waiting[rev] == w {
		delete(c.waiting, rev)
	}
}

// revision is the newest that all readers and watchers have.
func (c *cache) revision() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

// closeWatchers ends all watches: the server stops.
func (c *cache) closeWatchers() {
	for _, s := range c.shelves() {
		s.mu.Lock()
		s.cutAll()
		s.mu.Unlock()
	}
}
