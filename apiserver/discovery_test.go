package apiserver

import (
	"slices"
	"strings"
	"testing"

	"skiff/api"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	discoveryclient "k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

const acceptAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"

func TestAggregatedDiscovery(t *testing.T) {
	s := start(t)
	found := map[string]apidiscovery.APIResourceDiscovery{}
	for _, path := range []string{"/api", "/apis"} {
		a := s.do(t, "GET", path, "", "Accept", acceptAggregated).want(t, 200)
		if got := a.header.Get("Content-Type"); got != aggregatedType {
			t.Errorf("%s: Content-Type is %q, want %q", path, got, aggregatedType)
		}
		for _, g := range parse[apidiscovery.APIGroupDiscoveryList](t, a).Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					found[g.Name+"/"+v.Version+"/"+r.Resource] = r
				}
			}
		}
	}
	for _, r := range api.Table() {
		got, ok := found[r.Group+"/"+r.Version+"/"+r.Name]
		if !ok || got.ResponseKind.Kind != r.Kind || !slices.Equal(got.Verbs, r.Verbs) || len(got.Subresources) != len(r.Subs) {
			t.Errorf("%s: discovery says %+v", r.GroupResource(), got)
		}
	}
	if len(found) != len(api.Table()) {
		t.Errorf("discovery has %d resources, the table %d", len(found), len(api.Table()))
	}
}

func TestPlainDiscovery(t *testing.T) {
	s := start(t)
	want := len(groupNames(api.Table())) - 1 // The core group is not among them.
	for _, accept := range []string{"", "application/json", "application/json," + acceptAggregated, "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"} {
		if got := parse[metav1.APIGroupList](t, s.do(t, "GET", "/apis", "", "Accept", accept).want(t, 200)); got.Kind != "APIGroupList" || len(got.Groups) != want {
			t.Errorf("Accept %q: %s with %d groups, want APIGroupList with %d", accept, got.Kind, len(got.Groups), want)
		}
	}
	if got := parse[metav1.APIVersions](t, s.do(t, "GET", "/api", "").want(t, 200)); !slices.Equal(got.Versions, []string{"v1"}) || got.ServerAddressByClientCIDRs[0].ServerAddress != "192.0.2.1:6443" {
		t.Errorf("/api: versions %v, want v1", got.Versions)
	}
	if got := parse[metav1.APIGroup](t, s.do(t, "GET", "/apis/apps", "").want(t, 200)); got.PreferredVersion.GroupVersion != "apps/v1" {
		t.Errorf("/apis/apps: %+v", got)
	}
	if got := parse[metav1.APIGroup](t, s.do(t, "GET", "/apis/autoscaling", "").want(t, 200)); got.PreferredVersion.Version != "v2" || len(got.Versions) != 2 {
		t.Errorf("/apis/autoscaling: %+v, want v2 before v1", got)
	}
	list := parse[metav1.APIResourceList](t, s.do(t, "GET", "/apis/apps/v1", "").want(t, 200))
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "deployments/scale" })
	if i > 0 && list.APIResources[i-1].StorageVersionHash != "8aSe+NMegvE=" { // What Kubernetes has.
		t.Errorf("the hash of the stored version is %q", list.APIResources[i-1].StorageVersionHash)
	}
	if i < 0 || list.APIResources[i].Group != "autoscaling" || list.APIResources[i].Kind != "Scale" {
		t.Errorf("/apis/apps/v1 does not say of what kind deployments/scale is: %+v", list.APIResources)
	}
}

// client-go's own discovery understands both.
func TestDiscoveryClient(t *testing.T) {
	s := start(t)
	want := map[schema.GroupResource]bool{} // A kind with two versions is found in the one that is preferred.
	for _, r := range api.Table() {
		want[r.GroupResource()] = true
	}
	for _, legacy := range []bool{false, true} {
		d, err := discoveryclient.NewDiscoveryClientForConfig(&rest.Config{Host: "http://memory", Transport: s.Transport(administrator)})
		if err != nil {
			t.Fatal(err)
		}
		d.UseLegacyDiscovery = legacy
		lists, err := d.ServerPreferredResources()
		n := 0
		for _, l := range lists {
			n += len(l.APIResources)
		}
		if err != nil || n != len(want) {
			t.Errorf("legacy %v: %d resources, error %v; want %d", legacy, n, err, len(want))
		}
	}
}

// Every path that / lists is answered.
func TestPathsAtTheRoot(t *testing.T) {
	s := start(t)
	list := parse[metav1.RootPaths](t, s.do(t, "GET", "/", "").want(t, 200)).Paths
	if !slices.IsSorted(list) || !slices.Contains(list, "/api/v1") || !slices.Contains(list, "/apis/apps") || !slices.Contains(list, "/apis/apps/v1") {
		t.Errorf("/ lists %q", list)
	}
	for _, path := range list {
		s.do(t, "GET", path, "").want(t, 200)
	}
	s.doAs(t, User{Name: "anybody"}, "GET", "/", "").want(t, 403)
}

// Who has a document does not get it again.
func TestDocumentsThatAreKnown(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/api", "/apis", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"} {
		tag := s.do(t, "GET", path, "", "Accept", acceptAggregated).want(t, 200).header.Get("Etag")
		if got := s.do(t, "GET", path, "", "Accept", acceptAggregated, "If-None-Match", tag).want(t, 304); len(got.body) > 0 {
			t.Errorf("%s: a body of %d bytes comes with 304", path, len(got.body))
		}
		s.do(t, "GET", path, "", "Accept", acceptAggregated, "If-None-Match", `"another"`).want(t, 200)
	}
}

func TestPathsThatAreNone(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/nowhere", "/api/v2", "/apis/batch/v2/jobs", "/apis/apps/v1beta1", "/api/v1/namespaces/default/jobs", podsPath + "/p/nothing", "/apis/example.com/v1/roles"} {
		s.do(t, "GET", path, "").refused(t, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
	for method, path := range map[string]string{"POST": "/api", "PUT": "/api/v1/pods", "DELETE": "/version", "PATCH": podsPath} {
		s.do(t, method, path, "").refused(t, 405, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
	}
	s.do(t, "GET", podsPath, "", "Accept", "text/html").refused(t, 406, metav1.StatusReasonNotAcceptable, "application/json")
	s.do(t, "GET", "/apis", "", "Accept", "image/png").refused(t, 406, metav1.StatusReasonNotAcceptable)
	s.do(t, "GET", podsPath, "", "Accept", "text/html, */*;q=0.8").want(t, 200)
}

func TestVersionAndHealth(t *testing.T) {
	s := start(t)
	if v := parse[version.Info](t, s.do(t, "GET", "/version", "").want(t, 200)); v.GitVersion != testConfig(t).Version.GitVersion {
		t.Errorf("version is %+v", v)
	}
	for path, want := range map[string]string{
		"/livez": "ok", "/readyz": "ok", "/healthz": "ok",
		"/livez?verbose":                            "[+]ping ok\nlivez check passed\n",
		"/readyz?verbose":                           "[+]ping ok\n[+]store ok\nreadyz check passed\n",
		"/readyz?verbose&exclude=store":             "[+]ping ok\n[+]store excluded: ok\nreadyz check passed\n",
		"/healthz?verbose&exclude=etcd&exclude=pin": "[+]ping ok\n[+]store ok\nwarn: some health checks cannot be excluded: no matches for \"etcd\",\"pin\"\nhealthz check passed\n",
		"/livez/ping":                               "ok",
		"/readyz/store":                             "ok",
	} {
		if got := s.do(t, "GET", path, "").want(t, 200); string(got.body) != want {
			t.Errorf("%s: %q, want %q", path, got.body, want)
		}
	}
	s.store.Close()
	if got := s.do(t, "GET", "/readyz", "").want(t, 500); !strings.Contains(string(got.body), "[-]store failed") {
		t.Errorf("/readyz without a store: %q", got.body)
	}
	s.do(t, "GET", "/readyz/store", "").want(t, 500)
	s.do(t, "GET", "/readyz?exclude=store", "").want(t, 200)
	s.do(t, "GET", "/livez", "").want(t, 200)
	s.do(t, "GET", "/livez/none", "").want(t, 404)
}
