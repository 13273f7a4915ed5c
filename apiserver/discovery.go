package apiserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"skiff/api"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Discovery tells clients what there is: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
// It comes in two forms: one document for everything ("aggregated"), and the older one a group at a time.
type discovery struct {
	table  []*api.Resource // All that is served at the moment of the request.
	server string          // Where clients from anywhere reach the API.
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// wantsAggregated tells whether the client would rather have the aggregated form than the older one.
func wantsAggregated(r *http.Request) bool {
	for _, p := range preferences(r.Header.Get("Accept")) {
		switch {
		case p.params["as"] == "":
			return false
		case p.params["as"] == "APIGroupDiscoveryList" && p.params["g"] == apidiscovery.GroupName && p.params["v"] == "v2":
			return true
		}
	}
	return false
}

// paths serves /: what there is to ask for.
func (d discovery) paths(w http.ResponseWriter, r *http.Request) error {
	list := []string{"/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", keysPath, "/readyz", "/version"}
	for _, gv := range groupVersions(d.table) {
		list = append(list, groupPath(gv))
		if gv.Group != "" {
			list = append(list, "/apis/"+gv.Group)
		}
	}
	slices.Sort(list)
	body, err := json.MarshalIndent(metav1.RootPaths{Paths: slices.Compact(list)}, "", "  ")
	if err != nil {
		return err
	}
	return respondBytes(w, r, typeJSON, http.StatusOK, body)
}

// core serves /api.
func (d discovery) core(w http.ResponseWriter, r *http.Request) error {
	if wantsAggregated(r) {
		return respondAggregated(w, r, d.aggregated(func(group string) bool { return group == "" }))
	}
	v := &metav1.APIVersions{Versions: []string{"v1"}, ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: d.server}}}
	v.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIVersions"})
	return respond(w, r, http.StatusOK, v)
}

// groups serves /apis.
func (d discovery) groups(w http.ResponseWriter, r *http.Request) error {
	if wantsAggregated(r) {
		return respondAggregated(w, r, d.aggregated(func(group string) bool { return group != "" }))
	}
	list := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"})
	for _, name := range groupNames(d.table) {
		if name != "" {
			list.Groups = append(list.Groups, d.apiGroup(name))
		}
	}
	return respond(w, r, http.StatusOK, list)
}

func (d discovery) apiGroup(name string) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	for _, gv := range groupVersions(d.table) {
		if gv.Group == name {
			g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
		}
	}
	g.PreferredVersion = g.Versions[0]
	return g
}

// group serves /apis/GROUP.
func (d discovery) group(name string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		g := d.apiGroup(name)
		g.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"})
		return respond(w, r, http.StatusOK, &g)
	}
}

// resources serves /api/v1 and /apis/GROUP/VERSION.
func (d discovery) resources(gv schema.GroupVersion) handler {
	list := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"})
	for _, res := range d.table {
		if res.GroupVersion() != gv {
			continue
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: res.Name, SingularName: res.Singular, Namespaced: res.Namespaced, Kind: res.Kind,
			Verbs: res.Verbs, ShortNames: res.ShortNames, Categories: res.Categories, StorageVersionHash: storageVersion(res),
		})
		for _, sub := range res.Subs {
			gvk := subKind(res, sub)
			one := metav1.APIResource{Name: res.Name + "/" + sub.Name, Namespaced: res.Namespaced, Kind: sub.Kind, Verbs: sub.Verbs}
			if gvk.GroupVersion() != gv {
				one.Group, one.Version = gvk.Group, gvk.Version
			}
			list.APIResources = append(list.APIResources, one)
		}
	}
	return func(w http.ResponseWriter, r *http.Request) error { return respond(w, r, http.StatusOK, list) }
}

// storageVersion is a hash of what the objects of a row are stored as, by which clients notice that it has changed. It is
// Kubernetes' own, so that a client which knows that of Kubernetes knows this one.
func storageVersion(res *api.Resource) string {
	if res.Review || res.Live {
		return ""
	}
	stored := res.Stored()
	hash := sha256.Sum256([]byte(stored.Group + "/" + stored.Version + "/" + stored.Kind))
	return base64.StdEncoding.EncodeToString(hash[:8])
}

func subKind(res *api.Resource, sub api.Sub) schema.GroupVersionKind {
	if sub.Group != "" {
		return schema.GroupVersionKind{Group: sub.Group, Version: "v1", Kind: sub.Kind}
	}
	return res.GroupVersion().WithKind(sub.Kind)
}

func (d discovery) aggregated(want func(group string) bool) *apidiscovery.APIGroupDiscoveryList {
	list := &apidiscovery.APIGroupDiscoveryList{Items: []apidiscovery.APIGroupDiscovery{}}
	list.SetGroupVersionKind(apidiscovery.SchemeGroupVersion.WithKind("APIGroupDiscoveryList"))
	for _, name := range groupNames(d.table) {
		if !want(name) {
			continue
		}
		group := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, gv := range groupVersions(d.table) {
			if gv.Group == name {
				group.Versions = append(group.Versions, d.aggregatedVersion(gv))
			}
		}
		list.Items = append(list.Items, group)
	}
	return list
}

func (d discovery) aggregatedVersion(gv schema.GroupVersion) apidiscovery.APIVersionDiscovery {
	version := apidiscovery.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
	for _, res := range d.table {
		if res.GroupVersion() == gv {
			version.Resources = append(version.Resources, aggregatedResource(res))
		}
	}
	return version
}

func aggregatedResource(res *api.Resource) apidiscovery.APIResourceDiscovery {
	scope := apidiscovery.ScopeCluster
	if res.Namespaced {
		scope = apidiscovery.ScopeNamespace
	}
	out := apidiscovery.APIResourceDiscovery{
		Resource: res.Name, ResponseKind: responseKind(res.GroupVersionKind()), Scope: scope, SingularResource: res.Singular,
		Verbs: res.Verbs, ShortNames: res.ShortNames, Categories: res.Categories,
	}
	for _, sub := range res.Subs {
		out.Subresources = append(out.Subresources, apidiscovery.APISubresourceDiscovery{
			Subresource: sub.Name, ResponseKind: responseKind(subKind(res, sub)), Verbs: sub.Verbs,
		})
	}
	return out
}

func responseKind(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}

// respondAggregated answers with a document that has its hash for a tag: who has it already need not get it again.
func respondAggregated(w http.ResponseWriter, r *http.Request, obj runtime.Object) error {
	var body bytes.Buffer
	if err := jsonSerializer.Encode(obj, &body); err != nil {
		return err
	}
	w.Header().Set("Content-Type", aggregatedType)
	w.Header().Set("Cache-Control", "public")
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Etag", fmt.Sprintf(`"%X"`, sha512.Sum512(body.Bytes())))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body.Bytes()))
	return nil
}
