package apiserver

import (
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"skiff/store"
	"skiff/store/snapshot"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// SnapshotPath is where an administrator gets all that is stored, as package snapshot has it. Secrets are in it as they are.
const SnapshotPath = "/snapshot"

// snapshotTimeout bounds how long a client may take to read a snapshot, which keeps old objects in memory.
const snapshotTimeout = 10 * time.Minute

// moment is all that is stored, at one revision. Later writes do not change it, nor do they wait for it.
func (c *cache) moment() (rev uint64, states map[*shelf]state) {
	c.order.RLock() // No event is between the shelves now.
	defer c.order.RUnlock()
	states = map[*shelf]state{}
	for _, s := range c.shelves() {
		states[s] = s.state(c)
	}
	return c.revision(), states
}

// entries yields the objects of a moment as the store has them, in the order of their keys.
func entries(states map[*shelf]state) iter.Seq2[store.KV, error] {
	shelves := slices.SortedFunc(maps.Keys(states), func(a, b *shelf) int { return strings.Compare(a.storeKey(""), b.storeKey("")) })
	return func(yield func(store.KV, error) bool) {
		for _, s := range shelves {
			goOn := true
			states[s].tree.Ascend(func(it *item) bool {
				value, err := marshalStored(it.obj.DeepCopyObject())
				if err != nil {
					err = fmt.Errorf("encode %s: %w", s.storeKey(it.key), err)
				}
				goOn = yield(store.KV{Key: s.storeKey(it.key), Value: value, Rev: it.rev}, err) && err == nil
				return goOn
			})
			if !goOn {
				return
			}
		}
	}
}

// serveSnapshot sends all that is stored, from memory, object by object.
func (s *Server) serveSnapshot(w http.ResponseWriter, r *http.Request) error {
	u, _ := userOf(r)
	if !isAdministrator(u) {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("User %q cannot get path %q", u.Name, r.URL.Path))
	}
	if err := s.cache.freshen(r.Context()); err != nil {
		return err
	}
	// What can not have a deadline is in this process.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(snapshotTimeout))
	w.Header().Set("Content-Type", "application/octet-stream")
	rev, states := s.cache.moment()
	if _, err := snapshot.Write(w, rev, entries(states)); err != nil {
		if r.Context().Err() == nil {
			slog.Warn("a snapshot broke off", "err", err)
		}
		panic(http.ErrAbortHandler) // The client must not take it for whole.
	}
	return nil
}
