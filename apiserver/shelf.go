package apiserver

import (
	"log/slog"
	"slices"
	"sync"

	"skiff/api"

	"github.com/google/btree"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// Bounds of what is kept of the past, for each resource.
const (
	ringEvents   = 4096
	ringBytes    = 8 << 20
	quietBytes   = 1 << 20 // Of the past, when it has been quiet for a while.
	watchBacklog = 256     // Events that a watcher may be behind by before it is cut off.
)

// shelf is one resource's objects. A row of the table that is a view of another has a shelf with the same stock: it shows the
// other's objects in its own form, and has its own rules for who writes through it.
type shelf struct {
	resource *api.Resource
	*stock
}

// stock is what shelves hold: objects as they are stored, and their recent past.
type stock struct {
	mu       sync.RWMutex
	tree     *btree.BTreeG[*item]
	ring     []event // Oldest first, no gaps.
	ringSize int     // Bytes that it holds, as stored.
	since    uint64  // Events after this revision are in the ring.
	watchers map[*watcher]struct{}
	ended    bool // Whether the kind is no more: nothing will ever come for a watcher.
	gate     gate
	holders  *holders // Of Services.

	size int // Bytes of the objects, as stored.
	gone int // And of all versions of them that are no more, since the start.

	encodings *encodings // Of the items of all shelves.
}

// event is a change of one object. A bookmark has only a revision.
type event struct {
	kind watch.EventType
	rev  uint64
	item *item // For a deletion the last state, with the revision of the deletion.
	prev *item // What it replaces; nil for an addition.
}

// size is how much an event keeps in memory, in bytes as stored.
func (e event) size() int {
	n := e.item.size
	if e.prev != nil {
		n += e.prev.size
	}
	return n
}

// watcher receives the events of a shelf. The channel is closed when it fell behind, or its kind has gone.
type watcher struct {
	events chan event
}

func newShelf(r *api.Resource, e *encodings) *shelf {
	s := &shelf{r, &stock{tree: newTree(), watchers: map[*watcher]struct{}{}, encodings: e}}
	if r.GroupResource() == (schema.GroupResource{Resource: "services"}) {
		s.holders = &holders{}
		s.holders.reset()
	}
	return s
}

func (s *shelf) storeKey(key string) string {
	return s.resource.Stored().GroupResource().String() + "/" + key
}

func (s *shelf) reset(tree *btree.BTreeG[*item], rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree, s.ring, s.ringSize, s.since = tree, nil, 0, rev
	s.gone += s.size
	s.size = 0
	s.holders.reset()
	tree.Ascend(func(it *item) bool {
		s.holders.change(nil, it)
		s.size += it.size
		return true
	})
	s.cutAll()
}

func (s *shelf) apply(key string, rev uint64, it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, had := s.tree.Get(&item{key: key})
	ev := event{rev: rev, item: it, prev: prev}
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
	if had {
		prev.dropEncodings() // Few will still ask for them.
		s.gone += prev.size
		s.size -= prev.size
	}
	if it != nil {
		s.size += it.size
	}
	s.holders.change(prev, it)
	s.remember(ev)
	for w := range s.watchers {
		s.send(w, ev)
	}
}

// lastState is what a watcher is told of a deleted object: as it was, at the revision of its deletion.
func lastState(prev *item, rev uint64) *item {
	obj := prev.obj.DeepCopyObject()
	setRevision(obj, rev)
	return &item{key: prev.key, rev: rev, obj: obj, size: prev.size, encodings: prev.encodings}
}

func (s *shelf) remember(ev event) {
	s.ring = append(s.ring, ev)
	s.ringSize += ev.size()
	s.bound(ringEvents, ringBytes)
}

// bound drops the oldest events until there are so many, and so many bytes.
func (s *shelf) bound(events, bytes int) {
	for len(s.ring) > events || s.ringSize > bytes {
		s.since = s.ring[0].rev
		s.ringSize -= s.ring[0].size()
		s.ring[0] = event{}
		s.ring = s.ring[1:]
	}
}

// forget drops what those who watch have seen long ago.
func (s *shelf) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bound(ringEvents, quietBytes)
	s.ring = slices.Clone(s.ring)
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

func (s *shelf) isEmpty() bool { return s.count() == 0 }

func (s *shelf) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tree.Len()
}

// state is all objects of a shelf, which no later write changes. They were so from one revision to another, both included.
type state struct {
	tree     *btree.BTreeG[*item]
	from, to uint64

	size, gone int // The stock's.
}

// state returns that of now.
func (s *shelf) state(c *cache) state {
	s.mu.Lock() // Clone marks the nodes as shared: a write, of a kind.
	defer s.mu.Unlock()
	return s.stateLocked(c)
}

func (s *shelf) stateLocked(c *cache) state {
	newest := s.newest()
	return state{s.tree.Clone(), newest, max(c.revision(), newest), s.size, s.gone}
}

// past returns the state of an earlier revision, if all that has happened since is still known: that is undone then.
func (s *shelf) past(c *cache, rev uint64) (_ state, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev < s.since {
		return state{}, false
	}
	st := s.stateLocked(c)
	for _, ev := range slices.Backward(s.ring) {
		if ev.rev <= rev {
			break
		}
		st.undo(ev)
	}
	return st.at(rev), true
}

// undo takes back the last event that led to a state.
func (st *state) undo(ev event) {
	if ev.kind != watch.Deleted {
		st.size -= ev.item.size
	}
	if ev.prev == nil {
		st.tree.Delete(ev.item)
		return
	}
	st.tree.ReplaceOrInsert(ev.prev)
	st.size += ev.prev.size
	st.gone -= ev.prev.size
}

// at is the same state, said to be of one revision.
func (st state) at(rev uint64) state {
	st.from, st.to = rev, rev
	return st
}

// goneSince is how many bytes of objects have been replaced or deleted since a state.
func (s *stock) goneSince(st state) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.gone - st.gone
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
		return nil, nil, tooOld(rev, s.since)
	}
	i := len(s.ring)
	for i > 0 && s.ring[i-1].rev > rev {
		i--
	}
	return s.register(), slices.Clone(s.ring[i:]), nil
}

// watchNow registers a watcher and returns the state that its events follow on.
func (s *shelf) watchNow(c *cache) (*watcher, state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.register(), s.stateLocked(c)
}

func (s *shelf) register() *watcher {
	w := &watcher{events: make(chan event, watchBacklog)}
	if s.ended {
		close(w.events)
		return w
	}
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

// cutAll ends all watches of a shelf. Their clients come back and go on where they were, or begin anew.
func (s *shelf) cutAll() {
	for w := range s.watchers {
		delete(s.watchers, w)
		close(w.events)
	}
}

// bookmarkObject is the object of a bookmark event, as stored objects are: nothing but its kind and a revision.
func bookmarkObject(r *api.Resource, rev uint64, initialEnd bool) runtime.Object {
	r = r.Stored()
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	setRevision(obj, rev)
	if initialEnd {
		metaOf(obj).SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}
