package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// requestToken gives out a token of a ServiceAccount: `kubectl create token`. Left out is Kubernetes' extension of tokens of
// 3607 seconds to a year, which was for clients that had never heard of tokens that end.
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/
func (h *resource) requestToken(w http.ResponseWriter, r *http.Request) error {
	o, err := parseWrite(r, h.Resource)
	if err != nil {
		return err
	}
	obj, err := readKind(r, tokenRequestKind, o.validation)
	if err != nil {
		return err
	}
	it, err := h.find(r)
	if err != nil {
		return err
	}
	request, account := obj.(*authenticationv1.TokenRequest), it.obj.(*corev1.ServiceAccount)
	if err := checkTokenRequest(request, account); err != nil {
		return err
	}
	if err := h.server.nodeMayRequest(r, request, account.Namespace); err != nil {
		return err
	}
	c, err := h.server.claimsFor(request, account)
	if err != nil {
		return err
	}
	request.Name, request.Namespace, request.CreationTimestamp = account.Name, account.Namespace, metav1.NewTime(c.IssuedAt.Time())
	request.Spec.Audiences = c.Audience
	request.Status = authenticationv1.TokenRequestStatus{ExpirationTimestamp: metav1.NewTime(c.Expiry.Time())}
	if !o.dry {
		if request.Status.Token, err = h.server.tokens.sign(c); err != nil {
			return err
		}
	}
	o.validation.send(w)
	return respond(w, r, http.StatusCreated, request)
}

func checkTokenRequest(request *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	if err := sameNamespace(request, account.Namespace); err != nil {
		return err
	}
	api.DefaultTokenRequest(request)
	errs := api.ValidateTokenRequest(request)
	if request.Name != "" && request.Name != account.Name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), request.Name, "must match the service account name if specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(tokenRequestKind.GroupKind(), "", errs)
	}
	return nil
}

// claimsFor is what the token is to say.
func (s *Server) claimsFor(request *authenticationv1.TokenRequest, account *corev1.ServiceAccount) (*claims, error) {
	now := time.Now()
	c := &claims{
		Claims: jwt.Claims{
			Issuer: s.tokens.issuer, Subject: accountName(account), ID: string(uuid.NewUUID()),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(seconds(*request.Spec.ExpirationSeconds))),
		},
		Audience:   request.Spec.Audiences,
		Kubernetes: origin{Namespace: account.Namespace, Account: refTo(account)},
	}
	if len(c.Audience) == 0 {
		c.Audience = []string{s.tokens.issuer}
	}
	if ref := request.Spec.BoundObjectRef; ref != nil {
		if err := s.bindToken(&c.Kubernetes, ref); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func refTo(m metav1.Object) objectRef { return objectRef{Name: m.GetName(), UID: string(m.GetUID())} }

// bindToken ties a token to the life of another object.
func (s *Server) bindToken(o *origin, ref *authenticationv1.BoundObjectReference) error {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	resource, key := "", objectKey(o.Namespace, ref.Name)
	switch gvk.GroupKind().String() {
	case "Pod":
		resource = "pods"
	case "Secret":
		resource = "secrets"
	case "Node":
		resource, key = "nodes", ref.Name
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	it := s.shelf(resource).get(key)
	if it == nil {
		return apierrors.NewNotFound(corev1.Resource(resource), ref.Name)
	}
	bound := refTo(it.meta())
	switch obj := it.obj.(type) {
	case *corev1.Pod:
		if obj.Spec.ServiceAccountName != o.Account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with serviceaccount %q", o.Account.Name, obj.Spec.ServiceAccountName))
		}
		o.Pod, o.Node = &bound, s.nodeOf(obj)
	case *corev1.Secret:
		o.Secret = &bound
	case *corev1.Node:
		o.Node = &bound
	}
	if ref.UID != "" && string(ref.UID) != bound.UID {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name, fmt.Errorf("the UID in the bound object reference (%s) "+
			"does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// nodeOf refers to the node that a pod is on; without a UID where there is no such node.
func (s *Server) nodeOf(pod *corev1.Pod) *objectRef {
	if pod.Spec.NodeName == "" {
		return nil
	}
	node := objectRef{Name: pod.Spec.NodeName}
	if it := s.shelf("nodes").get(pod.Spec.NodeName); it != nil {
		node = refTo(it.meta())
	}
	return &node
}

// nodeMayRequest holds that a node gets tokens only for pods that run on it, and only for those whom the pod is to show them to.
func (s *Server) nodeMayRequest(r *http.Request, request *authenticationv1.TokenRequest, namespace string) error {
	u, _ := userOf(r)
	node, isNode := strings.CutPrefix(u.Name, nodePrefix)
	if !isNode || isAdministrator(u) {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(corev1.Resource("serviceaccounts"), chi.URLParam(r, "name"), fmt.Errorf(format, args...))
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return refuse("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return refuse("node requested token with a pod binding without a uid")
	}
	it := s.shelf("pods").get(objectKey(namespace, ref.Name))
	switch {
	case it == nil:
		return apierrors.NewNotFound(corev1.Resource("pods"), ref.Name)
	case ref.UID != it.meta().GetUID():
		return refuse("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case nodeNameOf(it) != node:
		return refuse("node requested token bound to a pod scheduled on a different node")
	}
	audience := ""
	switch asked := request.Spec.Audiences; len(asked) {
	case 0:
	case 1:
		audience = asked[0]
	default:
		return refuse("node may only request 0 or 1 audiences")
	}
	if !projects(&it.obj.(*corev1.Pod).Spec, audience) {
		return refuse("audience %q not found in pod spec volume", audience)
	}
	return nil
}

// projects says whether a pod has a volume with a token for the audience, "" being the API server.
func projects(spec *corev1.PodSpec, audience string) bool {
	return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ServiceAccountToken != nil && p.ServiceAccountToken.Audience == audience
		})
	})
}

// answerTokenReview says whose token it is, if it is anybody's.
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
func (s *Server) answerTokenReview(w http.ResponseWriter, r *http.Request, o *authenticationv1.TokenReview) error {
	if o.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := o.Spec.Audiences
	if len(audiences) == 0 {
		audiences = []string{s.tokens.issuer}
	}
	who, err := s.identify(r.Context(), o.Spec.Token, audiences, time.Now())
	if err != nil {
		o.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
		return nil
	}
	if who.warning != "" {
		warn(w, who.warning)
	}
	o.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: who.info(), Audiences: who.audiences}
	return nil
}
