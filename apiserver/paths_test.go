package apiserver

import (
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An empty part of a path names nothing. Least of all does it name every namespace.
func TestPathWithEmptyName(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.createConfigMap(t, "kept")
	for _, r := range []struct{ method, path, body string }{
		{"DELETE", "/api/v1/namespaces//configmaps", ""},
		{"GET", "/api/v1/namespaces//configmaps", ""},
		{"POST", "/api/v1/namespaces//configmaps", configMapJSON("a")},
		{"GET", "/api/v1/namespaces//pods//status", ""},
		{"PUT", "/api/v1/namespaces//pods//status", `{"kind":"Pod","apiVersion":"v1","metadata":{}}`},
		{"POST", "/api/v1/namespaces//bindings", `{}`},
		{"DELETE", "/apis/sea.example.com/v1/namespaces//boats", ""},
		{"GET", "/api/v1/namespaces/default/services//proxy/a", ""},
	} {
		s.do(t, r.method, r.path, r.body).refused(t, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
	s.do(t, "GET", configMapsPath+"/kept", "").want(t, 200)
}

// A slash at the end of an API's path says nothing, but behind a proxy, where others read the path.
func TestPathWithSlashAtItsEnd(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.createConfigMap(t, "a")
	for _, path := range []string{
		"/api/", "/api/v1/", "/apis/", "/apis/apps/", "/apis/apps/v1/", "/apis/sea.example.com/", "/apis/sea.example.com/v1/", "/version/",
		configMapsPath + "/", configMapsPath + "/a/", "/api/v1/nodes/", "/api/v1/namespaces/default/", "/apis/sea.example.com/v1/boats/",
	} {
		s.do(t, "GET", path, "").want(t, 200)
	}
	s.do(t, "POST", configMapsPath+"/", configMapJSON("b")).want(t, 201)
	s.do(t, "PATCH", configMapsPath+"/b/", `{"data":{"a":"2"}}`, merge...).want(t, 200)
	s.do(t, "PUT", configMapsPath+"/", `{"metadata":{}}`).refused(t, 405, metav1.StatusReasonMethodNotAllowed)
	for path, want := range map[string]string{
		"/api/v1/namespaces/n/pods/p/proxy/":  "/api/v1/namespaces/n/pods/p/proxy/",
		"/api/v1/nodes/n/proxy/watch/a/":      "/api/v1/nodes/n/proxy/watch/a/",
		"/apis/apps/v1/namespaces/watch/pods": "/apis/apps/v1/namespaces/watch/pods",
		"/livez/":                             "/livez/",
	} {
		if got := usual(httptest.NewRequest("GET", path, nil)).URL.Path; got != want {
			t.Errorf("%s is read as %s, want %s", path, got, want)
		}
	}
}

// Old clients watch by the path. Such a watch is as any other, also within the limits.
func TestWatchByPath(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v1/watch/pods":                                    "/api/v1/pods?watch=true",
		"/api/v1/watch/namespaces/n/pods":                       "/api/v1/namespaces/n/pods?watch=true",
		"/api/v1/watch/namespaces/n/pods/p?timeoutSeconds=1":    "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp&timeoutSeconds=1&watch=true",
		"/api/v1/watch/namespaces/n":                            "/api/v1/namespaces?fieldSelector=metadata.name%3Dn&watch=true",
		"/apis/apps/v1/watch/namespaces/n/deployments/":         "/apis/apps/v1/namespaces/n/deployments?watch=true",
		"/apis/a.example.com/v1/watch/bs/c?fieldSelector=d%3De": "/apis/a.example.com/v1/bs?fieldSelector=metadata.name%3Dc%2Cd%3De&watch=true",
	} {
		r := usual(httptest.NewRequest("GET", path, nil))
		if got := r.URL.RequestURI(); got != want || !longRunning(r) {
			t.Errorf("%s is read as %s, want %s", path, got, want)
		}
	}
	s := start(t)
	s.createConfigMap(t, "a")
	s.createConfigMap(t, "b")
	a := s.do(t, "GET", "/api/v1/watch/namespaces/default/configmaps/b?timeoutSeconds=1", "").want(t, 200)
	if body := string(a.body); strings.Count(body, `"type":"ADDED"`) != 1 || !strings.Contains(body, `"name":"b"`) {
		t.Errorf("the watch of one object tells: %s", body)
	}
	s.do(t, "POST", "/api/v1/watch/namespaces/default/configmaps", configMapJSON("c")).refused(t, 404, metav1.StatusReasonNotFound)
}

// What can only be asked has no list.
func TestReviewsAreNotListed(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/api/v1/bindings", "/apis/authorization.k8s.io/v1/localsubjectaccessreviews"} {
		s.do(t, "GET", path, "").refused(t, 404, metav1.StatusReasonNotFound)
		s.do(t, "GET", path+"?watch=1", "").refused(t, 404, metav1.StatusReasonNotFound)
	}
	s.do(t, "GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "").refused(t, 405, metav1.StatusReasonMethodNotAllowed)
}
