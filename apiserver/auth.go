package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
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
	authenticated  = "system:authenticated" // Everyone who is somebody.
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
		u, ok := userOf(r)
		if !ok {
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
				writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
				return
			}
			subject := r.TLS.VerifiedChains[0][0].Subject
			u = User{Name: subject.CommonName, Groups: append(slices.Clone(subject.Organization), authenticated)}
		}
		u, err := impersonated(r, u)
		if err != nil {
			writeError(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(withUser(r.Context(), u)))
	})
}

// impersonated is whom the user wants to be taken for in this request, if anybody: `kubectl --as`. Only administrators
// may. https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
func impersonated(r *http.Request, u User) (User, error) {
	as := User{Name: r.Header.Get("Impersonate-User"), Groups: slices.Clone(r.Header.Values("Impersonate-Group"))}
	for name := range r.Header {
		if name == "Impersonate-Uid" || strings.HasPrefix(name, "Impersonate-Extra-") {
			return User{}, apierrors.NewBadRequest(name + ": users have a name and groups here, and nothing else")
		}
	}
	switch {
	case as.Name == "" && len(as.Groups) == 0:
		return u, nil
	case as.Name == "":
		return User{}, apierrors.NewBadRequest("Impersonate-Group: groups cannot be impersonated without a user")
	case !isAdministrator(u):
		return User{}, apierrors.NewForbidden(corev1.Resource("users"), as.Name,
			fmt.Errorf("User %q cannot impersonate resource \"users\" in API group \"\" at the cluster scope", u.Name))
	}
	as.Groups = append(as.Groups, authenticated)
	return as, nil
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
