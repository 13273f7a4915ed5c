package apiserver

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ComponentStatus tells how the store does when it is asked, and can't be written.
func TestComponentStatuses(t *testing.T) {
	s := start(t)
	const path = "/api/v1/componentstatuses"
	a := s.do(t, "GET", path, "").want(t, 200)
	list := parse[corev1.ComponentStatusList](t, a)
	if len(list.Items) != 1 || list.Items[0].Name != "etcd-0" || list.Items[0].Conditions[0].Status != corev1.ConditionTrue || list.ResourceVersion == "" {
		t.Errorf("got %s", a.body)
	}
	if got, want := a.header.Get("Warning"), `299 - "v1 ComponentStatus is deprecated in v1.19+"`; got != want {
		t.Errorf("Warning is %q, want %q", got, want)
	}
	s.do(t, "GET", path+"/scheduler", "").refused(t, 404, metav1.StatusReasonNotFound, `componentstatuses "scheduler" not found`)
	s.do(t, "POST", path, `{"kind":"ComponentStatus","apiVersion":"v1"}`).refused(t, 405, metav1.StatusReasonMethodNotAllowed)
	s.do(t, "GET", path+"?watch=true", "").refused(t, 405, metav1.StatusReasonMethodNotAllowed)
	s.do(t, "GET", path+"?fieldSelector=metadata.name%3Dx", "").want(t, 200)
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	sick := parse[corev1.ComponentStatus](t, s.do(t, "GET", path+"/etcd-0", "").want(t, 200))
	if c := sick.Conditions[0]; c.Status != corev1.ConditionFalse || c.Error == "" {
		t.Errorf("with a closed store: %+v", c)
	}
}

// Who uses Endpoints is warned, as in Kubernetes, also by other verbs than create.
func TestDeprecationIsTold(t *testing.T) {
	s := start(t)
	for method, path := range map[string]string{"GET": "/api/v1/endpoints", "DELETE": "/api/v1/namespaces/default/endpoints/none"} {
		if got := s.do(t, method, path, "").header.Get("Warning"); !strings.Contains(got, "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice") {
			t.Errorf("%s %s: Warning is %q", method, path, got)
		}
	}
}

// A Binding may be posted without naming the pod in the path, as older schedulers do.
func TestBindings(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	const bindings = "/api/v1/namespaces/default/bindings"
	body := func(pod, target string) string {
		return `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"` + pod + `"},"target":` + target + `}`
	}
	s.do(t, "POST", bindings, body("p", `{"kind":"Pod"}`)).refused(t, 422, metav1.StatusReasonInvalid,
		`target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`, "target.name: Required value")
	s.do(t, "POST", bindings, body("q", `{"kind":"Node","name":"n1"}`)).refused(t, 404, metav1.StatusReasonNotFound, `pods "q" not found`)
	s.do(t, "POST", podsPath+"/p/binding", body("q", `{"kind":"Node","name":"n1"}`)).refused(t, 400, metav1.StatusReasonBadRequest, "name in URL does not match name in Binding object")
	if err := s.client(t, administrator, typeProto).CoreV1().Pods("default").Bind(context.Background(),
		&corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := s.pod(t, "p").Spec.NodeName; got != "n1" {
		t.Errorf("the pod is on %q", got)
	}
	s.createPod(t, "r")
	s.do(t, "POST", bindings, body("r", `{"kind":"Node","name":"n2"}`)).want(t, 201)
	if got := s.pod(t, "r").Spec.NodeName; got != "n2" {
		t.Errorf("the pod is on %q", got)
	}
}

// The range of Services is there from the start, and is the one of this start.
func TestDefaultServiceCIDR(t *testing.T) {
	s := start(t)
	const path = "/apis/networking.k8s.io/v1/servicecidrs"
	c := parse[networkingv1.ServiceCIDR](t, s.do(t, "GET", path+"/kubernetes", "").want(t, 200))
	if got := strings.Join(c.Spec.CIDRs, " "); got != "10.43.0.0/16" || len(c.Status.Conditions) != 1 || c.Status.Conditions[0].Status != metav1.ConditionTrue {
		t.Errorf("got %+v", c)
	}
	if err := s.Bootstrap(context.Background()); err != nil {
		t.Fatal(err)
	}
	if again := parse[networkingv1.ServiceCIDR](t, s.do(t, "GET", path+"/kubernetes", "").want(t, 200)); again.ResourceVersion != c.ResourceVersion {
		t.Error("a second start wrote it again")
	}
}
