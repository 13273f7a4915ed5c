package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// anyKind reads the metadata of objects of whatever kind the API server has, and deletes and patches them. Emptying a
// namespace and following owner references must reach kinds that this program was not built with.
type anyKind struct {
	discovery discovery.DiscoveryInterface
}

// pageSize bounds how many objects one list request brings.
const pageSize = 500

// errUnknownKind is the error of a kind that the API server does not serve.
var errUnknownKind = errors.New("the server does not have this kind")

// errOwnerNamespace is the error of a cluster-wide object whose owner would be in a namespace: which one, nothing says.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
var errOwnerNamespace = errors.New("an object without a namespace cannot have an owner in one")

// asMetadata asks for the metadata only; a server that cannot gives whole objects, of which the rest is ignored.
const (
	asMetadata     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
	asMetadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)

// resource looks up how a kind is served.
func (a anyKind) resource(apiVersion, kind string) (metav1.APIResource, error) {
	list, err := a.discovery.ServerResourcesForGroupVersion(apiVersion)
	if apierrors.IsNotFound(err) {
		return metav1.APIResource{}, fmt.Errorf("look up %s %s: %w", apiVersion, kind, errUnknownKind)
	}
	if err != nil {
		return metav1.APIResource{}, fmt.Errorf("look up %s %s: %w", apiVersion, kind, err)
	}
	for _, r := range list.APIResources {
		if r.Kind == kind && !strings.Contains(r.Name, "/") {
			return r, nil
		}
	}
	return metav1.APIResource{}, fmt.Errorf("look up %s %s: %w", apiVersion, kind, errUnknownKind)
}

// path is the URL path of a resource, in a namespace unless that is "", and of one object unless name is "".
func path(gvr schema.GroupVersionResource, namespace, name string) string {
	segments := []string{"", "apis", gvr.Group, gvr.Version}
	if gvr.Group == "" {
		segments = []string{"", "api", gvr.Version}
	}
	if namespace != "" {
		segments = append(segments, "namespaces", namespace)
	}
	segments = append(segments, gvr.Resource)
	if name != "" {
		segments = append(segments, name)
	}
	return strings.Join(segments, "/")
}

func (a anyKind) client() rest.Interface { return a.discovery.RESTClient() }

// get reads one object's metadata from the server.
func (a anyKind) get(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	data, err := a.client().Get().AbsPath(path(gvr, namespace, name)).SetHeader("Accept", asMetadata).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	obj := &metav1.PartialObjectMetadata{}
	if err := json.Unmarshal(data, obj); err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", gvr.Resource, namespace, name, err)
	}
	return obj, nil
}

// list reads the metadata of all objects of a resource in a namespace.
func (a anyKind) list(ctx context.Context, gvr schema.GroupVersionResource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	var all []metav1.PartialObjectMetadata
	next := ""
	for {
		request := a.client().Get().AbsPath(path(gvr, namespace, "")).SetHeader("Accept", asMetadataList).Param("limit", fmt.Sprint(pageSize))
		if next != "" {
			request = request.Param("continue", next)
		}
		data, err := request.DoRaw(ctx)
		if err != nil {
			return nil, err
		}
		page := &metav1.PartialObjectMetadataList{}
		if err := json.Unmarshal(data, page); err != nil {
			return nil, fmt.Errorf("read the list of %s in %s: %w", gvr.Resource, namespace, err)
		}
		all = append(all, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// delete deletes one object, or with name "" all of the resource in the namespace.
func (a anyKind) delete(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string, options metav1.DeleteOptions) error {
	options.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
	_, err := a.client().Delete().AbsPath(path(gvr, namespace, name)).
		SetHeader("Content-Type", "application/json").Body(mustJSON(options)).DoRaw(ctx)
	return err
}

// mergePatch sends a JSON merge patch, which every kind takes.
func (a anyKind) mergePatch(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string, patch any) error {
	_, err := a.client().Patch(types.MergePatchType).AbsPath(path(gvr, namespace, name)).Body(mustJSON(patch)).DoRaw(ctx)
	return err
}

// podResource is that of pods.
var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// deletable are the namespaced resources that can be deleted, pods first: what runs should end before what it uses goes.
func (a anyKind) deletable() ([]deletableResource, error) {
	lists, err := a.discovery.ServerPreferredNamespacedResources()
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("discover the kinds of the API server: %w", err)
	}
	var all []deletableResource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			return nil, fmt.Errorf("discover the kinds of the API server: %w", parseErr)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "delete") || !slices.Contains(r.Verbs, "list") {
				continue
			}
			all = append(all, deletableResource{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
		}
	}
	slices.SortStableFunc(all, func(a, b deletableResource) int { return -falseFirst(a.gvr == podResource, b.gvr == podResource) })
	return all, err // Part of the kinds and an error, where a group could not be asked.
}

type deletableResource struct {
	gvr    schema.GroupVersionResource
	atOnce bool // The whole collection can be deleted in one request.
}
