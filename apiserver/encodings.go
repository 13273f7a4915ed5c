package apiserver

import (
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/watch"
)

// keptEncodings is how many bytes of encodings a server keeps: those of some 10,000 pods as JSON.
const keptEncodings = 64 << 20

// encodings bounds what the items of all shelves keep of how they read on the wire. When they have become too much, those go
// that are there for longest: whoever asks for one again has it made again.
type encodings struct {
	most  int   // In bytes.
	texts texts // Of parts.

	mu     sync.Mutex
	bytes  int
	oldest *item // Of those that keep some, which are linked from here to the newest.
	newest *item
}

// link is an item's place among those that keep encodings.
type link struct{ older, younger *item }

// encoding is how an item reads in one media type.
type encoding struct {
	body []byte

	// The event that its watchers are told of, once there are any. The body is a part of it then.
	kind  watch.EventType
	frame []byte

	run *run // That it begins in lists, once somebody has asked for a list that it begins one in.
}

// size is how many bytes it keeps in memory.
func (e *encoding) size() int {
	if e == nil {
		return 0
	}
	return max(len(e.body), len(e.frame)) + e.run.size()
}

// put keeps one more encoding of an item, in the place of the one that is there.
func (k *encodings) put(it *item, at *atomic.Pointer[encoding], e *encoding) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if it.json.Load() != nil || it.proto.Load() != nil {
		k.unlink(it)
	}
	k.append(it)
	k.bytes += e.size() - at.Swap(e).size()
	for k.bytes > k.most && k.oldest != it {
		k.dropLocked(k.oldest)
	}
}

// drop forgets how an item reads.
func (k *encodings) drop(it *item) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked(it)
}

// dropAll forgets how all items read.
func (k *encodings) dropAll() {
	k.texts.forget()
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.oldest != nil {
		k.dropLocked(k.oldest)
	}
}

func (k *encodings) dropLocked(it *item) {
	asJSON, asProto := it.json.Swap(nil), it.proto.Swap(nil)
	if asJSON == nil && asProto == nil {
		return
	}
	k.bytes -= asJSON.size() + asProto.size()
	k.unlink(it)
}

func (k *encodings) append(it *item) {
	it.link.older = k.newest
	if k.newest == nil {
		k.oldest = it
	} else {
		k.newest.link.younger = it
	}
	k.newest = it
}

func (k *encodings) unlink(it *item) {
	older, younger := it.link.older, it.link.younger
	it.link = link{}
	if older == nil {
		k.oldest = younger
	} else {
		older.link.younger = younger
	}
	if younger == nil {
		k.newest = older
	} else {
		younger.link.older = older
	}
}
