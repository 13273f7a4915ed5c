package apiserver

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var stranger = User{Name: "jane", Groups: []string{"devs"}}

// Reviews say the same as the requests that they ask about would be told.
func TestAccessReviewsTellTheTruth(t *testing.T) {
	s := start(t)
	type what = authorizationv1.ResourceAttributes
	for _, tc := range []struct {
		user    User
		of      what
		allowed bool
	}{
		{administrator, what{Verb: "*", Group: "*", Resource: "*"}, true},
		{administrator, what{Verb: "delete", Resource: "nodes", Name: "n1"}, true},
		{administrator, what{Verb: "get", Group: "example.com", Resource: "ideas"}, true},
		{nodeUser, what{Verb: "list", Resource: "pods"}, true},
		{nodeUser, what{Verb: "create", Resource: "pods", Namespace: "default"}, true}, // Mirrors of its static pods; others are refused later.
		{nodeUser, what{Verb: "create", Resource: "configmaps", Namespace: "default"}, false},
		{nodeUser, what{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n1"}, true},
		{nodeUser, what{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n2"}, false},
		{nodeUser, what{Verb: "get", Group: "example.com", Resource: "ideas"}, false},
		{stranger, what{Verb: "get", Resource: "pods", Namespace: "default"}, false},
		{stranger, what{Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}, true},
		{stranger, what{Verb: "create", Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}, false},
	} {
		for _, media := range []string{typeJSON, typeProto} {
			self := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &tc.of}}
			got, err := s.client(t, tc.user, media).AuthorizationV1().SelfSubjectAccessReviews().Create(context.Background(), self, metav1.CreateOptions{})
			if err != nil || got.Status.Allowed != tc.allowed {
				t.Errorf("%s, %s asks of %+v: %+v, error %v; want allowed %v", media, tc.user.Name, tc.of, got, err, tc.allowed)
			}
		}
		other := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &tc.of, User: tc.user.Name, Groups: tc.user.Groups}}
		got, err := s.client(t, administrator, typeJSON).AuthorizationV1().SubjectAccessReviews().Create(context.Background(), other, metav1.CreateOptions{})
		if err != nil || got.Status.Allowed != tc.allowed {
			t.Errorf("somebody asks of %s and %+v: %+v, error %v; want allowed %v", tc.user.Name, tc.of, got, err, tc.allowed)
		}
	}
	for path, want := range map[string]map[string]bool{
		"/readyz":    {administrator.Name: true, nodeUser.Name: true, stranger.Name: true},
		"/apis/apps": {administrator.Name: true, nodeUser.Name: true, stranger.Name: false},
	} {
		for _, u := range []User{administrator, nodeUser, stranger} {
			allowed, ok := want[u.Name]
			got := s.judge(u, nil, &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"}).Allowed
			if ok && got != allowed {
				t.Errorf("%s may read %s: %v, want %v", u.Name, path, got, allowed)
			}
		}
	}
}

func TestWhoAmI(t *testing.T) {
	s := start(t)
	got, err := s.client(t, stranger, typeProto).AuthenticationV1().SelfSubjectReviews().Create(context.Background(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || got.Status.UserInfo.Username != "jane" || strings.Join(got.Status.UserInfo.Groups, ",") != "devs" {
		t.Errorf("whoami: %+v, error %v", got, err)
	}
}

func TestRulesReview(t *testing.T) {
	s := start(t)
	for _, tc := range []struct {
		user         User
		rules, paths int
		incomplete   bool
	}{{administrator, 3, 3, false}, {nodeUser, 2, 2, true}, {stranger, 2, 1, false}} {
		ask := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}
		got, err := s.client(t, tc.user, typeJSON).AuthorizationV1().SelfSubjectRulesReviews().Create(context.Background(), ask, metav1.CreateOptions{})
		if err != nil || len(got.Status.ResourceRules) != tc.rules || len(got.Status.NonResourceRules) != tc.paths || got.Status.Incomplete != tc.incomplete {
			t.Errorf("%s: %+v, error %v; want %d rules for resources and %d for paths, incomplete %v", tc.user.Name, got, err, tc.rules, tc.paths, tc.incomplete)
		}
	}
}

func TestRulesReviewOfNoNamespace(t *testing.T) {
	start(t).do(t, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{}}`).
		refused(t, 400, metav1.StatusReasonBadRequest, "no namespace on request")
}

// A review is asked and answered, and that is all: it is not stored, listed or printed.
func TestReviewsAreNotStored(t *testing.T) {
	s := start(t)
	const all = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	const local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
	ask := `{"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}`
	s.do(t, "POST", all, ask).want(t, 201)
	s.do(t, "GET", all, "").want(t, 405)
	s.do(t, "POST", all, ask, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").want(t, 406)
	s.do(t, "POST", all, `{"spec": {}}`).refused(t, 422, metav1.StatusReasonInvalid, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	s.do(t, "POST", local, ask).refused(t, 422, metav1.StatusReasonInvalid,
		"at least one of user or group must be specified", "must match metadata.namespace")
	s.doAs(t, stranger, "POST", local, ask).want(t, 403)
}
