package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// User is who makes a request.
type User struct {
	Name   string
	Groups []string
}

// The groups that mean something before RBAC is enforced.
const (
	administrators = "system:masters"
	nodes          = "system:nodes"
	nodePrefix     = "system:node:"
)

type userKey struct{}

// withUser makes a context for a request that comes from within this process.
func withUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// authenticate finds out who asks: the client certificate's common name is the user, its organizations are the groups.
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates
func authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := userOf(r); ok {
			next.ServeHTTP(w, r)
			return
		}
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		subject := r.TLS.VerifiedChains[0][0].Subject
		u := User{Name: subject.CommonName, Groups: subject.Organization}
		next.ServeHTTP(w, r.WithContext(withUser(r.Context(), u)))
	})
}

func userOf(r *http.Request) (User, bool) {
	u, ok := r.Context().Value(userKey{}).(User)
	return u, ok
}

// attributes say what a request wants to do.
type attributes struct {
	verb      string
	resource  *api.Resource
	sub       string
	namespace string
	name      string
}

// authorize lets administrators do everything and a node what a node needs. Everyone else waits for RBAC.
func (s *Server) authorize(r *http.Request, a attributes) error {
	u, _ := userOf(r)
	if s.allowed(u, a) {
		return nil
	}
	return forbidden(u, a)
}

func (s *Server) allowed(u User, a attributes) bool {
	if isAdministrator(u) {
		return true
	}
	name, ok := strings.CutPrefix(u.Name, nodePrefix)
	return ok && slices.Contains(u.Groups, nodes) && s.nodeMay(name, a)
}

func isAdministrator(u User) bool { return slices.Contains(u.Groups, administrators) }

func isMember(u User) bool { return isAdministrator(u) || slices.Contains(u.Groups, nodes) }

func forbidden(u User, a attributes) error {
	resource := a.resource.Name
	if a.sub != "" {
		resource += "/" + a.sub
	}
	scope := "at the cluster scope"
	if a.namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", a.namespace)
	}
	gr := schema.GroupResource{Group: a.resource.Group, Resource: a.resource.Name}
	return apierrors.NewForbidden(gr, a.name, fmt.Errorf("User %q cannot %s resource %q in API group %q %s", u.Name, a.verb, resource, a.resource.Group, scope))
}

// onlyMembers guards what is no resource: the cluster's administrators and nodes may see it.
func onlyMembers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, _ := userOf(r)
		if isMember(u) {
			next.ServeHTTP(w, r)
			return
		}
		err := fmt.Errorf("User %q cannot %s path %q", u.Name, strings.ToLower(r.Method), r.URL.Path)
		writeError(w, r, apierrors.NewForbidden(schema.GroupResource{}, "", err))
	})
}
