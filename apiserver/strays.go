package apiserver

import (
	"errors"
	"log/slog"
	"strings"

	"skiff/api"
	"skiff/store"

	"github.com/google/btree"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// strays are what the store holds that lies on no shelf: objects of a kind whose definition has gone, or is not accepted yet,
// and what this skiff cannot read, because another version wrote it. The server goes on without them: nothing that is stored may
// keep it from starting. They are kept as they were stored, by kind and key, and are objects again when a definition makes
// their kind. Only the goroutine that applies the store's events looks at them.
type strays map[string]map[string]store.KV

var errNoKind = errors.New("there is no such kind")

// add keeps a stray, and tells of the first of its kind.
func (s strays) add(kv store.KV, why error) {
	kind, _, _ := strings.Cut(kv.Key, "/")
	if s[kind] == nil {
		slog.Warn("the store holds what is left aside, and others like it", "key", kv.Key, "err", why)
		s[kind] = map[string]store.KV{}
	}
	s[kind][kv.Key] = kv
}

func (s strays) remove(storeKey string) {
	if len(s) == 0 {
		return
	}
	kind, _, _ := strings.Cut(storeKey, "/")
	delete(s[kind], storeKey)
	if len(s[kind]) == 0 {
		delete(s, kind)
	}
}

// putAway makes strays of the objects of a shelf whose kind goes.
func (c *cache) putAway(sh *shelf) {
	for _, it := range sh.state(c).items(selectAll(sh.resource)) {
		data, err := marshalStored(it.obj.DeepCopyObject())
		if err != nil {
			slog.Warn("an object cannot be kept until its kind is back", "key", sh.storeKey(it.key), "err", err)
			continue
		}
		c.strays.add(store.KV{Key: sh.storeKey(it.key), Value: data, Rev: it.rev}, errNoKind)
	}
}

// takeOut makes objects of the strays whose kind has come.
func (c *cache) takeOut(sh *shelf) *btree.BTreeG[*item] {
	tree := newTree()
	name := sh.resource.GroupResource().String()
	found := c.strays[name]
	delete(c.strays, name)
	for storeKey, kv := range found {
		it, err := newItem(sh, strings.TrimPrefix(storeKey, name+"/"), kv)
		if err != nil {
			c.strays.add(kv, err)
			continue
		}
		tree.ReplaceOrInsert(it)
	}
	return tree
}

// isKeyOf tells whether an object of a row lies under the key that its name and namespace make.
func isKeyOf(r *api.Resource, key string, m metav1.Object) bool {
	namespace, name := m.GetNamespace(), m.GetName()
	if r.Namespaced != (namespace != "") || name == "" {
		return false
	}
	rest, ok := strings.CutSuffix(key, name)
	if !r.Namespaced {
		return ok && rest == ""
	}
	rest, ok = strings.CutSuffix(rest, "/")
	return ok && rest == namespace
}
