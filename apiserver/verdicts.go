package apiserver

import (
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// verdicts remembers which pods were found valid, by all that their kind's validation looks at: annotations and spec, as they are
// stored. Pods that are made of one template have these the same, byte for byte, and are judged once. What is not valid is judged each
// time. A verdict is remembered when it is given for the second time. They are forgotten when they have become many.
type verdicts struct {
	mu    sync.Mutex
	valid parts[struct{}]
	seen  sightings // Of keys.
	own   []byte    // What the last pod had besides,
	key   []byte    // and what it was judged by.
}

// pod is what judge finds wrong with a pod that has this stored form.
func (v *verdicts) pod(stored []byte, judge func() field.ErrorList) field.ErrorList {
	if v.knows(stored) {
		return nil
	}
	errs := judge()
	if len(errs) == 0 {
		v.remember(stored)
	}
	return errs
}

func (v *verdicts) knows(stored []byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, valid := v.valid.known[string(v.keyOf(stored))]
	return valid
}

func (v *verdicts) remember(stored []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if key := v.keyOf(stored); v.seen.again(key) {
		v.valid.remember(key, struct{}{})
	}
}

// forget drops what is remembered.
func (v *verdicts) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.valid, v.own, v.key = parts[struct{}]{}, nil, nil
}

// keyOf is what a pod is judged by. The server has written it down itself, so that nothing is where it is not looked for.
func (v *verdicts) keyOf(stored []byte) []byte {
	split, _ := splitPod(v.own[:0], stored)
	v.own = split.own
	var annotations []byte
	for _, run := range split.metadata {
		if number, _, _ := protowire.ConsumeTag(run); number == podAnnotations {
			annotations = run
		}
	}
	v.key = binary.AppendUvarint(v.key[:0], uint64(len(annotations)))
	v.key = append(append(v.key, annotations...), split.spec...)
	return v.key
}
