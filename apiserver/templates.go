package apiserver

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// templates remembers the specs of pods that were sent lately as JSON, by their text. Who makes many pods mostly makes them of one
// template, and who replaces a pod mostly leaves its spec: then only the rest of the text is read. A spec is remembered when it comes
// for the second time. They are forgotten when they have become many.
type templates struct {
	mu    sync.Mutex
	specs parts[*corev1.PodSpec] // They never change.
	seen  sightings              // Of texts.
}

// reader reads pods with what reads objects. A spec is remembered only if nothing is wrong with the pod, not even a field that does
// not exist; and where anything is wrong with the rest, all is read, so that whoever sent it is told of it as ever.
func (t *templates) reader(read objectReader) objectReader {
	return func(body []byte, contentType string, v *validation) (runtime.Object, error) {
		from, to, ok := memberIn(body, "spec")
		if !ok || contentType != typeJSON || v.level == metav1.FieldValidationIgnore {
			return read(body, contentType, v)
		}
		if spec := t.find(body[from:to]); spec != nil {
			obj, err := read(slices.Concat(body[:from], []byte("{}"), body[to:]), contentType, v)
			if pod, ok := obj.(*corev1.Pod); ok && err == nil && len(v.warnings) == 0 {
				spec.DeepCopyInto(&pod.Spec)
				return pod, nil
			}
			v.warnings = nil
		}
		obj, err := read(body, contentType, v)
		if pod, ok := obj.(*corev1.Pod); ok && err == nil && len(v.warnings) == 0 {
			t.remember(body[from:to], &pod.Spec)
		}
		return obj, err
	}
}

func (t *templates) find(text []byte) *corev1.PodSpec {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.specs.known[string(text)]
}

func (t *templates) remember(text []byte, spec *corev1.PodSpec) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen.again(text) {
		t.specs.remember(text, spec.DeepCopy())
	}
}

// forget drops what is remembered.
func (t *templates) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.specs = parts[*corev1.PodSpec]{}
}

// memberIn finds where the value of an object's member lies in a JSON text, if that is an object, too. It is not found if there may be
// another member of this name, or if the text is none.
func memberIn(text []byte, name string) (from, to int, ok bool) {
	depth, atKey, found := 0, false, false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			if found && to == 0 && depth == 1 {
				if text[i] == '[' {
					return 0, 0, false
				}
				from = i
			}
			depth++
			atKey = depth == 1
		case '}', ']':
			if depth--; found && to == 0 && depth == 1 {
				to = i + 1
			}
		case ',':
			atKey = depth == 1
		case '"':
			said := upToQuote(text[i+1:])
			i += len(said) + 1
			if depth != 1 || !atKey {
				break
			}
			if !isPlain(string(said)) || found && (to == 0 || string(said) == name) {
				return 0, 0, false
			}
			found, atKey = found || string(said) == name, false
		}
	}
	return from, to, from > 0 && to > from
}
