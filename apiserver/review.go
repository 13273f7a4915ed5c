package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// reviewRoutes routes questions about who one is and who may do what. Everyone may ask about oneself.
// https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access
func (h *resource) reviewRoutes(mux chi.Router, path string) {
	ask := h.review
	if h.Kind == bindingKind.Kind {
		ask = h.bind
	}
	if !strings.HasPrefix(h.Name, "self") {
		ask = h.may("create", "", ask)
	}
	mux.Method(http.MethodPost, path, handler(ask))
}

// review answers a question, and forgets it.
func (h *resource) review(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	obj, err := h.read(r, o.validation)
	if err != nil {
		return err
	}
	if err := sameNamespace(metaOf(obj), chi.URLParam(r, "namespace")); err != nil {
		return err
	}
	if h.Validate != nil {
		if errs := h.Validate(obj); len(errs) > 0 {
			return apierrors.NewInvalid(h.GroupVersionKind().GroupKind(), "", errs)
		}
	}
	u, _ := userOf(r)
	if err := h.server.answerReview(w, r, obj, u); err != nil {
		return err
	}
	o.validation.send(w)
	return respond(w, r, http.StatusCreated, obj)
}

// answerReview fills in the status of a review that u asks for.
func (s *Server) answerReview(w http.ResponseWriter, r *http.Request, obj runtime.Object, u User) error {
	switch o := obj.(type) {
	case *authenticationv1.SelfSubjectReview:
		o.CreationTimestamp = metav1.Now().Rfc3339Copy()
		o.Status.UserInfo = u.info()
	case *authenticationv1.TokenReview:
		return s.answerTokenReview(w, r, o)
	case *authorizationv1.SelfSubjectAccessReview:
		o.Status = s.judge(u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
	case *authorizationv1.SubjectAccessReview:
		o.Status = s.judge(subject(&o.Spec), o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes)
	case *authorizationv1.LocalSubjectAccessReview:
		o.Status = s.judge(subject(&o.Spec), o.Spec.ResourceAttributes, nil)
	case *authorizationv1.SelfSubjectRulesReview:
		if o.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
		o.Status = rulesOf(u)
	default:
		panic(fmt.Sprintf("no code answers a %T", obj))
	}
	return nil
}

// subject is the user that a review asks about.
func subject(s *authorizationv1.SubjectAccessReviewSpec) User {
	u := User{Name: s.User, UID: s.UID, Groups: s.Groups, Extra: map[string][]string{}}
	for key, values := range s.Extra {
		u.Extra[key] = values
	}
	return u
}

// judge answers as a request of that user would be.
func (s *Server) judge(u User, of *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	if of == nil {
		return authorizationv1.SubjectAccessReviewStatus{Allowed: isMember(u) || slices.Contains(openPaths, path.Path)}
	}
	if isAdministrator(u) {
		return authorizationv1.SubjectAccessReviewStatus{Allowed: true}
	}
	table := s.rows()
	i := slices.IndexFunc(table, func(r *api.Resource) bool { return r.Group == of.Group && r.Name == of.Resource })
	if i < 0 {
		return authorizationv1.SubjectAccessReviewStatus{Reason: "there is no such resource"}
	}
	if table[i].Review && strings.HasPrefix(of.Resource, "self") && of.Verb == "create" {
		return authorizationv1.SubjectAccessReviewStatus{Allowed: true}
	}
	return authorizationv1.SubjectAccessReviewStatus{Allowed: s.allowed(u, attributes{
		verb: of.Verb, resource: table[i], sub: of.Subresource, namespace: of.Namespace, name: of.Name,
	})}
}

// openPaths are what is no resource and open to everyone, with a certificate or without.
var openPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}

// discoveryPaths tell members of the cluster what there is: Kubernetes' role system:discovery.
var discoveryPaths = []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}

// rulesOf lists what a user may do, as far as that can be listed: what everybody may, what members may, and the rest.
func rulesOf(u User) authorizationv1.SubjectRulesReviewStatus {
	all, get := []string{"*"}, []string{"get"}
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{
			{Verbs: []string{"create"}, APIGroups: []string{authorizationv1.GroupName}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}},
			{Verbs: []string{"create"}, APIGroups: []string{authenticationv1.GroupName}, Resources: []string{"selfsubjectreviews"}},
		},
	}
	if isMember(u) {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: get, NonResourceURLs: slices.Clone(discoveryPaths)})
	}
	status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: get, NonResourceURLs: slices.Clone(openPaths)})
	if isAdministrator(u) {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{Verbs: all, APIGroups: all, Resources: all})
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: all, NonResourceURLs: all})
	}
	if slices.Contains(u.Groups, nodes) {
		status.Incomplete = true
		status.EvaluationError = "what a node may do depends on the pods that it runs, and cannot be listed"
	}
	return status
}
