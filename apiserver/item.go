package apiserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// item is one version of one stored object. It never changes: readers, watchers and informers share it. How it reads on
// the wire is worked out when first asked for, once.
type item struct {
	key  string // "namespace/name", or "name".
	rev  uint64
	obj  runtime.Object
	size int             // In bytes, as stored; 0 for what is not.
	spec *corev1.PodSpec // That of a pod, if others may have the very same; nil otherwise.

	json  atomic.Pointer[encoding] // With kind and apiVersion first, no newline.
	proto atomic.Pointer[encoding] // The bare message, without the envelope that names its kind.

	encodings *encodings // Bounds what is kept of them; nil for an item that only one request has.
	link      link       // Is that one's.
}

// protoMessage is what the generated Kubernetes types can do.
type protoMessage interface {
	Size() int
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

// shown is the item in the form of a row that is a view of what stores it; the form of any other row is the stored one. The
// encodings of a view are not kept.
func (i *item) shown(r *api.Resource) *item {
	if r.View == nil {
		return i
	}
	return &item{key: i.key, rev: i.rev, obj: r.Show(i.obj), size: i.size}
}

func (i *item) meta() metav1.Object { return metaOf(i.obj) }

// metaOf is the metadata of an object of the API. Every kind of the table has it.
func metaOf(obj runtime.Object) metav1.Object { return obj.(metav1.Object) }

func setRevision(obj runtime.Object, rev uint64) {
	metaOf(obj).SetResourceVersion(strconv.FormatUint(rev, 10))
}

// encoded gives the object on its own in the media type.
func (i *item) encoded(media string) ([]byte, error) {
	switch media {
	case typeJSON:
		return i.jsonBytes()
	case typeProto:
		raw, err := i.protoBytes()
		if err != nil {
			return nil, err
		}
		gvk := i.obj.GetObjectKind().GroupVersionKind()
		return envelope(gvk.GroupVersion().String(), gvk.Kind, raw)
	}
	var buf bytes.Buffer
	err := encode(&buf, media, false, i.obj)
	return buf.Bytes(), err
}

func (i *item) atJSON() *atomic.Pointer[encoding]  { return &i.json }
func (i *item) atProto() *atomic.Pointer[encoding] { return &i.proto }

func (i *item) jsonBytes() ([]byte, error) { return i.kept(&i.json, i.makeJSON) }

// protoBytes is the object in protobuf, which a custom resource has no form in.
func (i *item) protoBytes() ([]byte, error) { return i.kept(&i.proto, i.makeProto) }

// kept is what was made before, or is made now and kept.
func (i *item) kept(at *atomic.Pointer[encoding], make func() ([]byte, error)) ([]byte, error) {
	if e := at.Load(); e != nil {
		return e.body, nil
	}
	b, err := make()
	if err != nil {
		return nil, err
	}
	i.keep(at, &encoding{body: b})
	return b, nil
}

// jsonOnce and protoOnce keep nothing.
func (i *item) jsonOnce() ([]byte, error)  { return i.once(&i.json, i.makeJSON) }
func (i *item) protoOnce() ([]byte, error) { return i.once(&i.proto, i.makeProto) }

func (i *item) once(at *atomic.Pointer[encoding], make func() ([]byte, error)) ([]byte, error) {
	if e := at.Load(); e != nil {
		return e.body, nil
	}
	return make()
}

func (i *item) keep(at *atomic.Pointer[encoding], e *encoding) {
	if i.encodings == nil {
		at.Store(e)
		return
	}
	i.encodings.put(i, at, e)
}

// dropEncodings forgets how the item reads on the wire, until somebody asks.
func (i *item) dropEncodings() {
	if i.encodings != nil {
		i.encodings.drop(i)
	}
}

func (i *item) makeJSON() ([]byte, error) {
	if pod, ok := i.obj.(*corev1.Pod); ok && i.spec != nil {
		return i.encodings.texts.pod(pod, i.spec)
	}
	var buf bytes.Buffer
	if err := jsonSerializer.Encode(i.obj, &buf); err != nil {
		return nil, fmt.Errorf("encode %s: %w", i.key, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func (i *item) makeProto() ([]byte, error) {
	message, ok := i.obj.(protoMessage)
	if !ok {
		return nil, notAcceptable(typeJSON, typeYAML)
	}
	b, err := message.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", i.key, err)
	}
	return b, nil
}

// protoSize is how long protoBytes are.
func (i *item) protoSize() (int, error) {
	if e := i.proto.Load(); e != nil {
		return len(e.body), nil
	}
	message, ok := i.obj.(protoMessage)
	if !ok {
		return 0, notAcceptable(typeJSON, typeYAML)
	}
	return message.Size(), nil
}

// frame is an event of a kind with the item, as it reads on the wire. Nearly all who watch are told the same of a version of an
// object, so that the bytes are made once, however many they are.
func (i *item) frame(media string, kind watch.EventType) ([]byte, error) {
	kept, end := &i.json, jsonFrameEnd
	if media == typeProto {
		kept, end = &i.proto, envelopeEnd
	}
	if e := kept.Load(); e != nil && e.frame != nil && e.kind == kind {
		return e.frame, nil
	}
	alone, err := i.encoded(media)
	if err != nil {
		return nil, err
	}
	frame, err := newFrame(media, kind, alone)
	if err != nil {
		return nil, err
	}
	if e := kept.Load(); e != nil {
		to := len(frame) - len(end)
		i.keep(kept, &encoding{body: frame[to-len(e.body) : to : to], kind: kind, frame: frame, run: e.run})
	}
	return frame, nil
}

const (
	jsonFrameEnd = "}\n"
	envelopeEnd  = "\x1a\x00\x22\x00" // Encoding and content type, fields 3 and 4 of an envelope, which are never given.
)

// newFrame makes the frame of an event around its object: a line of JSON, or a length and a protobuf message.
func newFrame(media string, kind watch.EventType, body []byte) ([]byte, error) {
	if media == typeProto {
		ev := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: body}}
		frame := make([]byte, 4+ev.Size())
		binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		_, err := ev.MarshalToSizedBuffer(frame[4:])
		return frame, err
	}
	frame := make([]byte, 0, len(body)+40)
	frame = fmt.Appendf(frame, `{"type":%q,"object":`, kind)
	return append(append(frame, body...), jsonFrameEnd...), nil
}

// protoMagic begins every protobuf message of the API: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
var protoMagic = []byte("k8s\x00")

func envelope(apiVersion, kind string, raw []byte) ([]byte, error) {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	b, err := unknown.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return append(protoMagic[:len(protoMagic):len(protoMagic)], b...), nil
}

// The stored form of an object is its bare protobuf message: the key says its kind, and the store its revision. That of a
// custom resource is JSON.

func marshalStored(obj runtime.Object) ([]byte, error) {
	metaOf(obj).SetResourceVersion("")
	if custom, ok := obj.(*unstructured.Unstructured); ok {
		return custom.MarshalJSON()
	}
	return obj.(protoMessage).Marshal()
}

// unmarshalStored makes an object of its stored form. spec is that of a pod, where others may have the very same.
func (a *alike) unmarshalStored(r *api.Resource, data []byte) (obj runtime.Object, spec *corev1.PodSpec, err error) {
	if r.Custom {
		obj, err = unmarshalCustom(r, data)
		return obj, nil, err
	}
	if obj, spec, err = a.decode(r, data); err != nil {
		return nil, nil, fmt.Errorf("decode a stored %s: %w", r.Kind, err)
	}
	return obj, spec, nil
}

// unmarshalCustom reads a stored custom resource. It may be older than the kind's schema is now, or be stored in another
// version: what no longer belongs goes, and what has a default since then gets it.
func unmarshalCustom(r *api.Resource, data []byte) (runtime.Object, error) {
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("decode a stored %s: %w", r.Kind, err)
	}
	conform(r, obj)
	return obj, nil
}

// conform makes a custom resource one of the row, as it is now. One that a new schema does not bear stays as it is: it was well
// when it was written, and is judged when it is written again.
func conform(r *api.Resource, obj *unstructured.Unstructured) {
	obj.SetGroupVersionKind(r.GroupVersionKind())
	if _, err := r.Prune(obj); err != nil {
		slog.Warn("a stored object does not bear the schema that its kind has now", "kind", r.GroupVersionKind(), "namespace", obj.GetNamespace(), "name", obj.GetName(), "err", err)
	}
	r.Default(obj)
}
