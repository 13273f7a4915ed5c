package apiserver

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"

	"skiff/api"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// item is one version of one stored object. It never changes: readers, watchers and informers share it. How it reads on
// the wire is worked out when first asked for, once.
type item struct {
	key  string // "namespace/name", or "name".
	rev  uint64
	obj  runtime.Object
	size int // In bytes, as stored; 0 for what is not.

	json  atomic.Pointer[[]byte] // With kind and apiVersion first, no newline.
	proto atomic.Pointer[[]byte] // The bare message, without the envelope that names its kind.
}

// protoMessage is what the generated Kubernetes types can do.
type protoMessage interface {
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
func metaOf(obj runtime.Object) metav1.Object { return obj.(metav1.ObjectMetaAccessor).GetObjectMeta() }

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

func (i *item) jsonBytes() ([]byte, error) {
	if b := i.json.Load(); b != nil {
		return *b, nil
	}
	var buf bytes.Buffer
	if err := jsonSerializer.Encode(i.obj, &buf); err != nil {
		return nil, fmt.Errorf("encode %s: %w", i.key, err)
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	i.json.Store(&b)
	return b, nil
}

// superseded drops the encodings of an item that is only part of the past from now on: few will still ask for them.
func (i *item) superseded() {
	i.json.Store(nil)
	i.proto.Store(nil)
}

func (i *item) protoBytes() ([]byte, error) {
	if b := i.proto.Load(); b != nil {
		return *b, nil
	}
	b, err := i.obj.(protoMessage).Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", i.key, err)
	}
	i.proto.Store(&b)
	return b, nil
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

// The stored form of an object is its bare protobuf message: the key says its kind, and the store its revision.

func marshalStored(obj runtime.Object) ([]byte, error) {
	metaOf(obj).SetResourceVersion("")
	return obj.(protoMessage).Marshal()
}

func unmarshalStored(r *api.Resource, data []byte) (runtime.Object, error) {
	obj := r.New()
	if err := obj.(protoMessage).Unmarshal(data); err != nil {
		return nil, fmt.Errorf("decode a stored %s: %w", r.Kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	if r.Default != nil {
		r.Default(obj) // The stored form has no kind of what lies within an object, and defaults may be younger than it.
	}
	return obj, nil
}
