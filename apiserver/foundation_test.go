package apiserver

import (
	"path/filepath"
	"testing"

	"skiff/store/bolt"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const slicesPath = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

// takeAddress gives the address of the Service "kubernetes" to another. The server makes its own anew at once, but not
// twice in a second.
func (s *running) takeAddress(t *testing.T) {
	t.Helper()
	eventually(t, "another Service has the address", func() bool {
		s.do(t, "DELETE", servicesPath+"/kubernetes", "")
		return s.do(t, "POST", servicesPath, serviceJSON("mine", `"clusterIP":"10.43.0.1"`)).code == 201
	})
}

func (s *running) has(t *testing.T, path string) func() bool {
	return func() bool { return s.do(t, "GET", path, "").code == 200 }
}

// What every cluster begins with comes back when a client takes it away.
func TestFoundationIsKept(t *testing.T) {
	s := start(t)
	before := parse[corev1.Service](t, s.do(t, "GET", servicesPath+"/kubernetes", "").want(t, 200))
	for _, path := range []string{
		servicesPath + "/kubernetes", "/api/v1/namespaces/kube-system/services/kube-dns", "/api/v1/namespaces/default/endpoints/kubernetes",
		slicesPath + "/kubernetes", "/api/v1/namespaces/kube-node-lease",
	} {
		s.do(t, "DELETE", path, "").want(t, 200)
		if path == "/api/v1/namespaces/kube-node-lease" { // There is no controller here that empties it.
			s.do(t, "PUT", path+"/finalize", `{"metadata":{"name":"kube-node-lease"},"spec":{"finalizers":[]}}`).want(t, 200)
		}
		eventually(t, path+" is there again", s.has(t, path))
	}
	after := parse[corev1.Service](t, s.do(t, "GET", servicesPath+"/kubernetes", "").want(t, 200))
	if after.UID == before.UID || after.Spec.ClusterIP != before.Spec.ClusterIP {
		t.Errorf("the Service is %+v, want a new one with address %s", after, before.Spec.ClusterIP)
	}
	s.do(t, "PATCH", "/api/v1/namespaces/default/endpoints/kubernetes", `{"subsets":null}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	eventually(t, "the endpoints are right again", func() bool {
		e := parse[corev1.Endpoints](t, s.do(t, "GET", "/api/v1/namespaces/default/endpoints/kubernetes", "").want(t, 200))
		return len(e.Subsets) == 1
	})
}

// Servers in the cluster read who vouches for clients; what others wrote beside it stays.
func TestClientCAIsPublished(t *testing.T) {
	const path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
	file := filepath.Join(t.TempDir(), "store")
	startAs := func(ca string) *running {
		db, err := bolt.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		config := testConfig(t)
		config.ClientCA = []byte(ca)
		return startWith(t, db, config)
	}
	data := func(s *running) map[string]string {
		return parse[corev1.ConfigMap](t, s.do(t, "GET", path, "").want(t, 200)).Data
	}
	s := startAs("first")
	s.do(t, "PATCH", path, `{"data":{"mine":"1"}}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	s.stop()
	s = startAs("second")
	if diff := cmp.Diff(map[string]string{"client-ca-file": "second", "mine": "1"}, data(s)); diff != "" {
		t.Errorf("after a start with another authority (-want +got):\n%s", diff)
	}
	s.do(t, "DELETE", path, "").want(t, 200)
	eventually(t, "it is there again", s.has(t, path))
	if got := data(s)["client-ca-file"]; got != "second" {
		t.Errorf("it says %q", got)
	}
}

// A client that has the address of the Service "kubernetes" does not keep the server from starting, and when it lets go the Service
// is made.
func TestTakenAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	s.takeAddress(t)
	s.stop()
	s = startOn(t, file)
	s.do(t, "GET", servicesPath+"/kubernetes", "").want(t, 404)
	s.do(t, "DELETE", servicesPath+"/mine", "").want(t, 200)
	eventually(t, "the Service is there", s.has(t, servicesPath+"/kubernetes"))
}

// An EndpointSlice of another family in the place of the server's own is replaced, at a start and later.
func TestEndpointSliceOfAnotherFamily(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	spoil := func() {
		t.Helper()
		eventually(t, "the slice is another", func() bool {
			s.do(t, "DELETE", slicesPath+"/kubernetes", "")
			return s.do(t, "POST", slicesPath, `{"metadata":{"name":"kubernetes"},"addressType":"IPv6","endpoints":[{"addresses":["2001:db8::1"]}]}`).code == 201
		})
	}
	right := func() bool {
		a := s.do(t, "GET", slicesPath+"/kubernetes", "")
		return a.code == 200 && parse[discoveryv1.EndpointSlice](t, a).AddressType == discoveryv1.AddressTypeIPv4
	}
	spoil()
	eventually(t, "the slice is right while the server runs", right)
	spoil()
	s.stop()
	s = startOn(t, file)
	eventually(t, "the slice is right after a start", right)
}
