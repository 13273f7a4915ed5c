package apiserver

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"skiff/pki"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secure serves the API as skiff does: with TLS, and client certificates of its own authority.
func (s *running) secure(t *testing.T) (web *httptest.Server, authority *pki.CA) {
	t.Helper()
	ca, err := pki.EnsureCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Server([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	web = httptest.NewUnstartedServer(s)
	if web.TLS, err = ca.ServerTLS(pair); err != nil {
		t.Fatal(err)
	}
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(web.Close)
	return web, ca
}

// get makes a request with a client certificate for a user, or without any.
func get(t *testing.T, web *httptest.Server, ca *pki.CA, method, path, user string, groups ...string) answer {
	t.Helper()
	config := &tls.Config{RootCAs: ca.Pool()}
	if user != "" {
		pair, err := ca.Client(user, groups...)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, web.URL+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

func TestAnonymous(t *testing.T) {
	s := start(t)
	web, ca := s.secure(t)
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/version"} {
		get(t, web, ca, "GET", path, "").want(t, 200)
	}
	for _, r := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/api"}, {"GET", "/apis"}, {"GET", "/api/v1/pods"}, {"GET", "/openapi/v2"}, {"GET", "/nowhere"}, {"GET", "/metrics"},
		{"POST", podsPath}, {"PUT", "/api/v1/pods"}, {"POST", "/livez"}, {"GET", podsPath + "?watch=1"}, {"GET", podsPath + "/x/log"},
	} {
		get(t, web, ca, r.method, r.path, "").refused(t, 401, metav1.StatusReasonUnauthorized, "Unauthorized")
	}
}

func TestCertificates(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	web, ca := s.secure(t)
	get(t, web, ca, "GET", podsPath, "admin", administrators).want(t, 200)
	get(t, web, ca, "GET", podsPath, "system:node:n1", nodes).want(t, 200)
	for _, tc := range []struct{ method, path, message string }{
		{"GET", podsPath, `pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"`},
		{"GET", podsPath + "/p", `pods "p" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default"`},
		{"GET", podsPath + "?watch=true", `pods is forbidden: User "jane" cannot watch resource "pods" in API group "" in the namespace "default"`},
		{"GET", podsPath + "/p/log", `pods "p" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "default"`},
		{"DELETE", deployments, `deployments.apps is forbidden: User "jane" cannot deletecollection resource "deployments" in API group "apps" in the namespace "default"`},
		{"GET", "/api/v1/nodes", `nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"GET", "/api", `forbidden: User "jane" cannot get path "/api"`},
		{"GET", "/nowhere", `forbidden: User "jane" cannot get path "/nowhere"`},
	} {
		a := get(t, web, ca, tc.method, tc.path, "jane", "developers")
		a.refused(t, 403, metav1.StatusReasonForbidden)
		if got := parse[metav1.Status](t, a).Message; got != tc.message {
			t.Errorf("%s %s:\n got %s\nwant %s", tc.method, tc.path, got, tc.message)
		}
	}
	// A name that looks like a node's is none without the group.
	get(t, web, ca, "GET", podsPath, "system:node:n1").want(t, 403)

	other, err := pki.EnsureCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Client("admin", administrators)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{cert}}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(web.URL + podsPath)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("a certificate of another authority is answered %s", resp.Status)
		}
	}
}

// An administrator can be anybody for the time of a request, and is then let in as that one; nobody else can.
func TestImpersonation(t *testing.T) {
	s := start(t)
	s.do(t, "GET", podsPath, "", "Impersonate-User", "jane").refused(t, 403, metav1.StatusReasonForbidden, `User "jane" cannot list resource "pods"`)
	s.do(t, "GET", podsPath, "", "Impersonate-User", "jane", "Impersonate-Group", administrators).want(t, 200)
	s.doAs(t, nodeUser, "GET", podsPath, "", "Impersonate-User", "jane").refused(t, 403, metav1.StatusReasonForbidden,
		`users "jane" is forbidden: User "system:node:n1" cannot impersonate resource "users" in API group "" at the cluster scope`)
	s.do(t, "GET", podsPath, "", "Impersonate-Group", "devs").refused(t, 400, metav1.StatusReasonBadRequest, "without a user")
	s.do(t, "GET", podsPath, "", "Impersonate-Uid", "7").refused(t, 400, metav1.StatusReasonBadRequest, "without a user")
	s.do(t, "GET", podsPath, "", "Impersonate-Extra-Scopes", "x").refused(t, 400, metav1.StatusReasonBadRequest, "without a user")
	for _, tc := range []struct {
		headers []string
		want    authenticationv1.UserInfo
	}{
		{[]string{"Impersonate-User", "jane", "Impersonate-Group", "devs", "Impersonate-Uid", "7", "Impersonate-Extra-Example.com%2fScopes", "x"}, authenticationv1.UserInfo{
			Username: "jane", UID: "7", Groups: []string{"devs", "system:authenticated"}, Extra: map[string]authenticationv1.ExtraValue{"example.com/scopes": {"x"}}}},
		{[]string{"Impersonate-User", "system:serviceaccount:default:robot"}, authenticationv1.UserInfo{
			Username: "system:serviceaccount:default:robot", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}}},
		{[]string{"Impersonate-User", "system:anonymous"}, authenticationv1.UserInfo{Username: "system:anonymous", Groups: []string{"system:unauthenticated"}}},
	} {
		got := parse[authenticationv1.SelfSubjectReview](t, s.do(t, "POST", whoamiPath, "{}", tc.headers...).want(t, 201)).Status.UserInfo
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("the administrator, with %q, is (-want +got):\n%s", tc.headers, diff)
		}
	}
}

// A certificate tells which one it was.
func TestCertificateIsNamed(t *testing.T) {
	s := start(t)
	web, ca := s.secure(t)
	review := parse[authenticationv1.SelfSubjectReview](t, get(t, web, ca, "POST", whoamiPath, "jane"))
	if review.CreationTimestamp.IsZero() {
		t.Error("the review does not say when it was answered")
	}
	got := review.Status.UserInfo
	if id := got.Extra[credentialKey]; len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") {
		t.Errorf("who comes with a certificate is %+v, want a credential-id", got)
	}
}

// A node reads what pods are made of, and writes only what is its own.
func TestNodeRestriction(t *testing.T) {
	s := start(t)
	for _, name := range []string{"mine", "other"} {
		s.do(t, "POST", podsPath, `{"metadata":{"name":"`+name+`"},"spec":{"containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"of-`+name+`"}}]}],
			"volumes":[{"name":"v","configMap":{"name":"of-`+name+`"}}]}}`).want(t, 201)
		s.do(t, "POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"of-`+name+`"}}`).want(t, 201)
		s.createConfigMap(t, "of-"+name)
	}
	s.bind(t, "mine", "n1").want(t, 201)
	s.bind(t, "other", "n2").want(t, 201)
	leases := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	node := func(name string) string { return `{"metadata":{"name":"` + name + `"}}` }
	for _, tc := range []struct {
		method, path, body string
		code               int
	}{
		{"POST", "/api/v1/nodes", node("n2"), 403},
		{"POST", "/api/v1/nodes", node("n1"), 201},
		{"PATCH", "/api/v1/nodes/n1/status", `{"status":{"nodeInfo":{"machineID":"m"}}}`, 200},
		{"PATCH", "/api/v1/nodes/n2/status", `{}`, 403},
		{"DELETE", "/api/v1/nodes/n1", "", 403},
		{"POST", leases, node("n2"), 403},
		{"POST", leases, node("n1"), 201},
		{"PATCH", leases + "/n1", `{"spec":{"holderIdentity":"n1"}}`, 200},
		{"PATCH", leases + "/n2", `{}`, 403},
		{"GET", leases, "", 200},
		{"GET", "/apis/coordination.k8s.io/v1/leases", "", 403},
		{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", 200},
		{"PATCH", podsPath + "/mine/status", `{"status":{"phase":"Running"}}`, 200},
		{"PATCH", podsPath + "/other/status", `{"status":{"phase":"Running"}}`, 403},
		{"PATCH", podsPath + "/mine", `{"metadata":{"labels":{"a":"b"}}}`, 403},
		{"POST", podsPath, podJSON("new"), 403},
		{"GET", podsPath + "/mine/log", "", 403},
		{"POST", podsPath + "/mine/binding", `{}`, 403},
		{"GET", "/api/v1/namespaces/default/secrets/of-mine", "", 200},
		{"GET", "/api/v1/namespaces/default/secrets/of-other", "", 403},
		{"GET", "/api/v1/namespaces/default/secrets", "", 403},
		{"GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dof-mine", "", 200},
		{"GET", "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dof-mine", "", 200},
		{"GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dof-other", "", 403},
		{"GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%21%3Dof-mine", "", 403},
		{"GET", "/api/v1/secrets?fieldSelector=metadata.name%3Dof-mine", "", 403},
		{"GET", configMapsPath + "/of-mine", "", 200},
		{"GET", configMapsPath + "/of-other", "", 403},
		{"PATCH", configMapsPath + "/of-mine", `{}`, 403},
		{"GET", "/api/v1/services", "", 200},
		{"GET", "/apis/node.k8s.io/v1/runtimeclasses", "", 200},
		{"POST", "/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"plain"},"handler":"runc"}`, 403},
		{"GET", "/api", "", 200},
		{"DELETE", podsPath + "/other", "", 403},
		{"DELETE", podsPath + "/mine?gracePeriodSeconds=0", "", 200},
		{"GET", "/api/v1/namespaces/default/secrets/of-mine", "", 403}, // The pod is gone.
	} {
		headers := []string{}
		if tc.method == "PATCH" {
			headers = merge
		}
		if a := s.doAs(t, nodeUser, tc.method, tc.path, tc.body, headers...); a.code != tc.code {
			t.Errorf("%s %s: %d, want %d: %s", tc.method, tc.path, a.code, tc.code, a.body)
		}
	}
}

// A node reads the claims of its pods, and of volumes says only whether it holds data of them.
func TestNodeAndVolumes(t *testing.T) {
	s := start(t)
	const claims, volumes, merge = "/api/v1/namespaces/default/persistentvolumeclaims", "/api/v1/persistentvolumes", "application/merge-patch+json"
	for _, name := range []string{"mine", "other"} {
		s.do(t, "POST", claims, `{"metadata":{"name":"`+name+`"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`).want(t, 201)
		s.do(t, "POST", volumes, `{"metadata":{"name":"`+name+`"},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1Gi"},
			"csi":{"driver":"local.skiff.io","volumeHandle":"h"},
			"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["`+name+`"]}]}]}}}}`).want(t, 201)
	}
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1","labels":{"kubernetes.io/hostname":"mine"}}}`).want(t, 201)
	s.do(t, "POST", podsPath, `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"}],
		"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"mine"}}]}}`).want(t, 201)
	s.doAs(t, nodeUser, "GET", claims+"/mine", "").want(t, 200)
	s.doAs(t, nodeUser, "GET", claims+"/other", "").want(t, 403)
	s.doAs(t, nodeUser, "GET", claims, "").want(t, 403)
	s.doAs(t, nodeUser, "GET", volumes, "").want(t, 200)
	s.doAs(t, nodeUser, "DELETE", volumes+"/mine", "").want(t, 403)
	holds := `{"metadata":{"finalizers":["kubernetes.io/pv-protection","local.skiff.io/data"]}}`
	s.doAs(t, nodeUser, "PATCH", volumes+"/mine", holds, "Content-Type", merge).want(t, 200)
	s.doAs(t, nodeUser, "PATCH", volumes+"/other", holds, "Content-Type", merge).want(t, 403)
	for _, patch := range []string{`{"metadata":{"finalizers":null}}`, `{"spec":{"storageClassName":"x"}}`, `{"metadata":{"labels":{"a":"b"}}}`} {
		s.doAs(t, nodeUser, "PATCH", volumes+"/mine", patch, "Content-Type", merge).refused(t, 403, metav1.StatusReasonForbidden,
			`node "n1" can only say whether it holds data of a persistent volume`)
	}
}
