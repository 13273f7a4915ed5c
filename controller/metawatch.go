package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// informer follows the metadata of all objects of a resource.
func (a anyKind) informer(gvr schema.GroupVersionResource, indexers cache.Indexers) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			data, err := a.collection(gvr, o).SetHeader("Accept", asMetadataList).DoRaw(ctx)
			if err != nil {
				return nil, err
			}
			list := &metav1.PartialObjectMetadataList{}
			if err := json.Unmarshal(data, list); err != nil {
				return nil, fmt.Errorf("read the list of %s: %w", gvr.Resource, err)
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			body, err := a.collection(gvr, o).SetHeader("Accept", asMetadata).Stream(ctx)
			if err != nil {
				return nil, err
			}
			return watch.NewStreamWatcher(&metadataEvents{body, json.NewDecoder(body)}, errors.NewClientErrorReporter(500, "GET", "ClientWatchDecoding")), nil
		},
	}
	return cache.NewSharedIndexInformer(lw, &metav1.PartialObjectMetadata{}, 0, indexers)
}

// collection is a request for all objects of a resource, with the options of an informer.
func (a anyKind) collection(gvr schema.GroupVersionResource, o metav1.ListOptions) *rest.Request {
	return a.client().Get().AbsPath(path(gvr, "", "")).SpecificallyVersionedParams(&o, scheme.ParameterCodec, schema.GroupVersion{Version: "v1"})
}

// metadataEvents reads a watch of metadata: a line of JSON for each event.
type metadataEvents struct {
	io.Closer
	lines *json.Decoder
}

// Decode reads one event.
func (e *metadataEvents) Decode() (watch.EventType, runtime.Object, error) {
	var event struct {
		Type   watch.EventType
		Object json.RawMessage
	}
	if err := e.lines.Decode(&event); err != nil {
		return "", nil, err
	}
	var obj runtime.Object = &metav1.PartialObjectMetadata{}
	if event.Type == watch.Error {
		obj = &metav1.Status{}
	}
	if err := json.Unmarshal(event.Object, obj); err != nil {
		return "", nil, fmt.Errorf("read a watch event: %w", err)
	}
	return event.Type, obj, nil
}

// Close ends the watch; the stream is all that there is to close.
func (e *metadataEvents) Close() { _ = e.Closer.Close() }
