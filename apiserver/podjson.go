package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// texts remembers how parts read as JSON that objects have in common (see alike): a pod's spec, and the record of whose its fields
// are, are most of its text, and the same for all that are made of one template. They are forgotten when they have become much.
type texts struct {
	mu    sync.Mutex
	known map[any][]byte // By a pointer to the part, which never changes.
	size  int            // Of the texts.
}

// of is the text of a part, which is remembered unless it is large.
func (t *texts) of(part any) ([]byte, error) {
	if text := t.find(part); text != nil {
		return text, nil
	}
	text, err := json.Marshal(part)
	if err == nil && len(text) <= maxAlike/16 {
		t.remember(part, text)
	}
	return text, err
}

func (t *texts) find(part any) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[part]
}

func (t *texts) remember(part any, text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || t.size+len(text) > maxAlike {
		t.known, t.size = map[any][]byte{}, 0
	}
	if t.known[part] == nil {
		t.known[part] = text
		t.size += len(text)
	}
}

func (t *texts) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.size = nil, 0
}

// pod is how a pod reads whose spec is common to others. It is what the encoder of JSON would say.
func (t *texts) pod(pod *corev1.Pod, spec *corev1.PodSpec) ([]byte, error) {
	metadata, err := t.metadata(pod.ObjectMeta)
	if err != nil {
		return nil, err
	}
	wanted, err := t.of(spec)
	if err != nil {
		return nil, err
	}
	status, err := json.Marshal(&pod.Status)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":`, pod.Kind, pod.APIVersion)
	metadata = append(metadata, []byte(`,"spec":`), wanted, []byte(`,"status":`), status, []byte(`}`))
	return bytes.Join(append([][]byte{head}, metadata...), nil), nil
}

// metadata gives the parts of the text of metadata. Managed fields are its last field.
func (t *texts) metadata(m metav1.ObjectMeta) (parts [][]byte, err error) {
	entries := m.ManagedFields
	m.ManagedFields = nil
	if parts, err = open(&m, "managedFields", len(entries) > 0); err != nil || len(entries) == 0 {
		return parts, err
	}
	between := []byte("[")
	for i := range entries {
		entry, err := t.entry(entries[i])
		if err != nil {
			return nil, err
		}
		parts = append(append(parts, between), entry...)
		between = []byte(",")
	}
	return append(parts, []byte("]}")), nil
}

// entry gives the parts of the text of one of the managed fields.
func (t *texts) entry(e metav1.ManagedFieldsEntry) ([][]byte, error) {
	fields, sub := e.FieldsV1, e.Subresource
	if fields == nil {
		text, err := json.Marshal(&e)
		return [][]byte{text}, err
	}
	e.FieldsV1, e.Subresource = nil, ""
	parts, err := open(&e, "fieldsV1", true)
	if err != nil {
		return nil, err
	}
	text, err := t.of(fields)
	if err != nil {
		return nil, err
	}
	end := []byte("}")
	if sub != "" {
		if end, err = json.Marshal(metav1.ManagedFieldsEntry{Subresource: sub}); err != nil {
			return nil, err
		}
		end[0] = ','
	}
	return append(parts, text, end), nil
}

// open is the text of an object to which a field is to be added, if it is.
func open(obj any, field string, added bool) ([][]byte, error) {
	text, err := json.Marshal(obj)
	if err != nil || !added {
		return [][]byte{text}, err
	}
	name := `"` + field + `":`
	if len(text) > len("{}") {
		name = "," + name
	}
	return [][]byte{bytes.TrimSuffix(text, []byte("}")), []byte(name)}, nil
}
