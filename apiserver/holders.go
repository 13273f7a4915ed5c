package apiserver

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// holders know which Services have an address or a node port, so that to give one does not mean to read all Services. They
// change with the tree of their stock, and under its lock. nil is for stocks of other kinds.
type holders struct{ keys map[holding][]string }

// reset forgets all.
func (h *holders) reset() {
	if h != nil {
		h.keys = map[holding][]string{}
	}
}

// change notes that one version of an object takes the place of another; nil is for none.
func (h *holders) change(old, now *item) {
	if h == nil {
		return
	}
	for _, held := range heldBy(old) {
		rest := slices.DeleteFunc(h.keys[held], func(key string) bool { return key == old.key })
		if len(rest) == 0 {
			delete(h.keys, held)
		} else {
			h.keys[held] = rest
		}
	}
	for _, held := range heldBy(now) {
		h.keys[held] = append(h.keys[held], now.key)
	}
}

func heldBy(it *item) []holding {
	if it == nil {
		return nil
	}
	all := holdings(it.obj.(*corev1.Service))
	for i := range all {
		if all[i].address != "" {
			all[i].address = canonical(all[i].address)
		}
	}
	return all
}

// heldByOther reports whether an object of the shelf but the one of that key has it.
func (s *shelf) heldByOther(h holding, key string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.ContainsFunc(s.holders.keys[h], func(holder string) bool { return holder != key })
}
