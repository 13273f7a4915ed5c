package apiserver

import (
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
		{"PUT", "/api/v1/namespaces/default/configmaps/", `{"metadata":{}}`},
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

// What can only be asked has no list.
func TestReviewsAreNotListed(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/api/v1/bindings", "/apis/authorization.k8s.io/v1/localsubjectaccessreviews"} {
		s.do(t, "GET", path, "").refused(t, 404, metav1.StatusReasonNotFound)
		s.do(t, "GET", path+"?watch=1", "").refused(t, 404, metav1.StatusReasonNotFound)
	}
	s.do(t, "GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "").refused(t, 405, metav1.StatusReasonMethodNotAllowed)
}
