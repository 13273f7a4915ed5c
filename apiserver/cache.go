package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"skiff/api"
	"skiff/store"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// cache is the whole store in memory, as decoded objects. Reads and watches are answered from it alone; writes go to the
// store, and the cache learns of them only from the store's watch, so that there is one order of events for all.
type cache struct {
	store     store.Store
	resources map[string]*shelf // By "pods", "deployments.apps": the first part of a key in the store.

	mu      sync.Mutex
	applied uint64                   // All events up to this revision are in the shelves and with their watchers.
	waiting map[uint64]chan struct{} // Writers that wait for the event of their write.
	handed  map[*byte]runtime.Object // Objects of writes under way, by their encoding, so as not to decode what we just encoded.
}

// Bounds of what is kept of the past, for each resource.
const (
	ringEvents   = 4096
	ringBytes    = 8 << 20
	watchBacklog = 256 // Events that a watcher may be behind by before it is cut off.
)

// shelf holds one resource's objects and its recent past.
type shelf struct {
	resource *api.Resource

	mu       sync.RWMutex
	tree     *btree.BTreeG[*item]
	ring     []event // Oldest first, no gaps.
	ringSize int     // Bytes in it, as stored.
	since    uint64  // Events after this revision are in the ring.
	watchers map[*watcher]struct{}
}

// event is a change of one object. A bookmark has only a revision.
type event struct {
	kind watch.EventType
	rev  uint64
	item *item // For a deletion the last state, with the revision of the deletion.
	prev *item // What it replaces; nil for an addition.
	size int
}

// watcher receives the events of a shelf. The channel is closed when it fell behind.
type watcher struct {
	events chan event
}

// newCache loads what the store has. Its run method must follow.
func newCache(ctx context.Context, s store.Store, table []*api.Resource) (*cache, error) {
	c := &cache{
		store:     s,
		resources: map[string]*shelf{},
		waiting:   map[uint64]chan struct{}{},
		handed:    map[*byte]runtime.Object{},
	}
	for _, r := range table {
		c.resources[r.GroupResource().String()] = &shelf{
			resource: r,
			tree:     btree.NewG(32, func(a, b *item) bool { return a.key < b.key }),
			watchers: map[*watcher]struct{}{},
		}
	}
	kvs, rev, err := s.List(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	for _, kv := range kvs {
		shelf, key, err := c.locate(kv.Key)
		if err != nil {
			return nil, err
		}
		it, err := c.newItem(shelf, key, kv)
		if err != nil {
			return nil, err
		}
		shelf.tree.ReplaceOrInsert(it)
	}
	c.applied = rev
	for _, s := range c.resources {
		s.since = rev
	}
	return c, nil
}

// run applies the store's events until ctx ends.
func (c *cache) run(ctx context.Context) error {
	for ev, err := range c.store.Watch(ctx, "", c.applied) {
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
				return nil
			}
			return fmt.Errorf("watch the store: %w", err)
		}
		if err := c.apply(ev); err != nil {
			return err
		}
	}
	return nil
}

func (c *cache) apply(ev store.Event) error {
	shelf, key, err := c.locate(ev.Key)
	if err != nil {
		return err
	}
	var it *item
	if !ev.Deleted {
		if it, err = c.newItem(shelf, key, ev.KV); err != nil {
			return err
		}
	}
	shelf.apply(key, ev.Rev, it, len(ev.Value))

	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = ev.Rev
	if ch, ok := c.waiting[ev.Rev]; ok {
		close(ch)
		delete(c.waiting, ev.Rev)
	}
	return nil
}

// locate finds the shelf that a key of the store belongs to.
func (c *cache) locate(storeKey string) (*shelf, string, error) {
	resource, key, ok := strings.Cut(storeKey, "/")
	shelf := c.resources[resource]
	if !ok || shelf == nil {
		return nil, "", fmt.Errorf("the store holds %q, which is of no kind that this skiff knows: it was written by another version", storeKey)
	}
	return shelf, key, nil
}

func (c *cache) newItem(s *shelf, key string, kv store.KV) (*item, error) {
	obj := c.takeHanded(kv.Value)
	if obj == nil {
		var err error
		if obj, err = unmarshalStored(s.resource, kv.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
	}
	setRevision(obj, kv.Rev)
	return &item{key: key, rev: kv.Rev, obj: obj}, nil
}

func setRevision(obj runtime.Object, rev uint64) {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	m.SetResourceVersion(strconv.FormatUint(rev, 10))
}

// put writes obj under key if rev is still its revision there (0: it must not exist), waits until readers see it, and
// returns it. The object belongs to the cache from here on. Errors are the store's.
func (c *cache) put(ctx context.Context, s *shelf, key string, obj runtime.Object, rev uint64) (runtime.Object, error) {
	data, err := marshalStored(obj)
	if err != nil {
		return nil, err
	}
	c.hand(data, obj)
	written, err := c.store.Put(ctx, s.storeKey(key), data, rev)
	if err != nil {
		c.takeHanded(data)
		return nil, err
	}
	err = c.wait(ctx, written)
	if c.takeHanded(data) != nil { // The store gave the cache a copy; this object stayed ours.
		setRevision(obj, written)
	}
	return obj, err
}

// remove deletes key if rev is still its revision and waits until readers see it.
func (c *cache) remove(ctx context.Context, s *shelf, key string, rev uint64) error {
	deleted, err := c.store.Delete(ctx, s.storeKey(key), rev)
	if err != nil {
		return err
	}
	return c.wait(ctx, deleted)
}

func (s *shelf) storeKey(key string) string { return s.resource.GroupResource().String() + "/" + key }

func (c *cache) hand(data []byte, obj runtime.Object) {
	if len(data) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed[&data[0]] = obj
}

func (c *cache) takeHanded(data []byte) runtime.Object {
	if len(data) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	obj := c.handed[&data[0]]
	delete(c.handed, &data[0])
	return obj
}

// wait blocks until the event of revision rev is applied. rev is the revision of one write.
func (c *cache) wait(ctx context.Context, rev uint64) error {
	c.mu.Lock()
	if c.applied >= rev {
		c.mu.Unlock()
		return nil
	}
	ch, ok := c.waiting[rev]
	if !ok {
		ch = make(chan struct{})
		c.waiting[rev] = ch
	}
	c.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// revision is the newest that all readers and watchers have.
func (c *cache) revision() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

func (s *shelf) apply(key string, rev uint64, it *item, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, had := s.tree.Get(&item{key: key})
	ev := event{rev: rev, item: it, prev: prev, size: size}
	switch {
	case it == nil && !had:
		return
	case it == nil:
		ev.kind, ev.item = watch.Deleted, lastState(prev, rev)
		s.tree.Delete(prev)
	case had:
		ev.kind = watch.Modified
		s.tree.ReplaceOrInsert(it)
	default:
		ev.kind = watch.Added
		s.tree.ReplaceOrInsert(it)
	}
	s.remember(ev)
	for w := range s.watchers {
		s.send(w, ev)
	}
}

// lastState is what a watcher is told of a deleted object: as it was, at the revision of its deletion.
func lastState(prev *item, rev uint64) *item {
	obj := prev.obj.DeepCopyObject()
	setRevision(obj, rev)
	return &item{key: prev.key, rev: rev, obj: obj}
}

func (s *shelf) remember(ev event) {
	s.ring = append(s.ring, ev)
	s.ringSize += ev.size
	for len(s.ring) > ringEvents || s.ringSize > ringBytes {
		s.since = s.ring[0].rev
		s.ringSize -= s.ring[0].size
		s.ring[0] = event{}
		s.ring = s.ring[1:]
	}
}

// send gives w an event, or cuts it off if it does not keep up: one slow reader must not hold back the others.
func (s *shelf) send(w *watcher, ev event) {
	select {
	case w.events <- ev:
	default:
		slog.Debug("watcher cut off", "resource", s.resource.Name)
		delete(s.watchers, w)
		close(w.events)
	}
}

// get returns the newest version of an object, or nil.
func (s *shelf) get(key string) *item {
	s.mu.RLock()
	defer s.mu.RUnlock()
	it, _ := s.tree.Get(&item{key: key})
	return it
}

// snapshot returns the objects of now, which no later write changes, and a revision that they are the state at.
func (s *shelf) snapshot(c *cache) (*btree.BTreeG[*item], uint64) {
	s.mu.Lock() // Clone marks the nodes as shared: a write, of a kind.
	defer s.mu.Unlock()
	return s.tree.Clone(), max(c.revision(), s.newest())
}

// newest is the revision of the last event of this shelf; it may be a moment ahead of the cache's.
func (s *shelf) newest() uint64 {
	if n := len(s.ring); n > 0 {
		return s.ring[n-1].rev
	}
	return s.since
}

// watchFrom registers a watcher and returns the events after rev that happened already.
func (s *shelf) watchFrom(rev uint64) (*watcher, []event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev < s.since {
		return nil, nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, s.since))
	}
	i := len(s.ring)
	for i > 0 && s.ring[i-1].rev > rev {
		i--
	}
	past := append([]event(nil), s.ring[i:]...)
	return s.register(), past, nil
}

// watchNow registers a watcher and returns the state that its events follow on.
func (s *shelf) watchNow(c *cache) (*watcher, *btree.BTreeG[*item], uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.register(), s.tree.Clone(), max(c.revision(), s.newest())
}

func (s *shelf) register() *watcher {
	w := &watcher{events: make(chan event, watchBacklog)}
	s.watchers[w] = struct{}{}
	return w
}

// bookmark queues a bookmark behind all events that w was sent: the revision in it is one that w has seen everything of.
func (s *shelf) bookmark(c *cache, w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.watchers[w]; ok {
		s.send(w, event{kind: watch.Bookmark, rev: max(c.revision(), s.newest())})
	}
}

func (s *shelf) unregister(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// closeWatchers ends all watches: the server stops.
func (c *cache) closeWatchers() {
	for _, s := range c.resources {
		s.mu.Lock()
		for w := range s.watchers {
			delete(s.watchers, w)
			close(w.events)
		}
		s.mu.Unlock()
	}
}

// bookmarkObject is the object of a bookmark event: nothing but its kind and a revision.
func bookmarkObject(r *api.Resource, rev uint64, initialEnd bool) runtime.Object {
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	setRevision(obj, rev)
	if initialEnd {
		m, _ := meta.Accessor(obj)
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}
