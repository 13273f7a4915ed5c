package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"skiff/api"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// User is who makes a request.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string // What else who let the user in had to tell, by keys in lower case.
}

// info is the user as reviews tell of one.
func (u User) info() authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, values := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// The groups that mean something before RBAC is enforced.
const (
	administrators = "system:masters"
	nodes          = "system:nodes"
	nodePrefix     = "system:node:"

	authenticated   = "system:authenticated" // Everyone who is somebody.
	anonymous       = "system:anonymous"     // A user.
	unauthenticated = "system:unauthenticated"
)

type userKey struct{}

// withUser makes a context for a request that comes from within this process.
func withUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// authenticate finds out who asks, and whom he wants to be taken for.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := s.whoAsks(r)
		if !ok {
			writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		if who.warning != "" {
			warn(w, who.warning)
		}
		u, err := impersonated(r, who.User)
		if err != nil {
			writeError(w, r, err)
			return
		}
		r.Header.Del("Authorization") // It is for us, and not for a node that the request may go on to.
		next.ServeHTTP(w, r.WithContext(withUser(r.Context(), u)))
	})
}

// whoAsks is the user of a client certificate, whose common name is the user's and whose organizations are the groups, or of
// a bearer token. https://kubernetes.io/docs/reference/access-authn-authz/authentication/
func (s *Server) whoAsks(r *http.Request) (identified, bool) {
	if u, ok := userOf(r); ok {
		return identified{User: u}, true
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		cert := r.TLS.VerifiedChains[0][0]
		sum := sha256.Sum256(cert.Raw)
		return identified{User: User{
			Name: cert.Subject.CommonName, Groups: append(slices.Clone(cert.Subject.Organization), authenticated),
			Extra: map[string][]string{credentialKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
		}}, true
	}
	token := bearer(r)
	if token == "" {
		return identified{}, false
	}
	who, err := s.identify(r.Context(), token, []string{s.tokens.issuer}, time.Now())
	if s.cache.newest != nil && errors.As(err, new(unboundError)) && s.cache.freshen(r.Context()) == nil {
		who, err = s.identify(r.Context(), token, []string{s.tokens.issuer}, time.Now())
	}
	if err != nil {
		slog.Debug("a token was refused", "from", r.RemoteAddr, "err", err)
	}
	return who, err == nil
}

// impersonated is whom the user wants to be taken for in this request, if anybody: `kubectl --as`. Only administrators
// may. https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
func impersonated(r *http.Request, u User) (User, error) {
	as, err := impersonation(r.Header)
	switch {
	case err != nil:
		return User{}, err
	case as.Name == "":
		return u, nil
	case !isAdministrator(u):
		return User{}, apierrors.NewForbidden(corev1.Resource("users"), as.Name,
			fmt.Errorf("User %q cannot impersonate resource \"users\" in API group \"\" at the cluster scope", u.Name))
	}
	if namespace, ok := accountNamespace(as.Name); ok && len(as.Groups) == 0 {
		as.Groups = accountGroups(namespace)
	}
	everyone := authenticated
	if as.Name == anonymous {
		everyone = unauthenticated
	}
	if !slices.Contains(as.Groups, everyone) {
		as.Groups = append(as.Groups, everyone)
	}
	return as, nil
}

// impersonation is the user that a request's headers describe.
func impersonation(h http.Header) (User, error) {
	const extraPrefix = "Impersonate-Extra-"
	as := User{Name: h.Get("Impersonate-User"), UID: h.Get("Impersonate-Uid"), Groups: slices.Clone(h.Values("Impersonate-Group"))}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, extraPrefix)
		if !ok {
			continue
		}
		if plain, err := url.PathUnescape(key); err == nil { // Kubernetes too takes what is not escaped as it is.
			key = plain
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		as.Extra[strings.ToLower(key)] = values
	}
	if as.Name == "" && (as.UID != "" || len(as.Groups) > 0 || len(as.Extra) > 0) {
		return User{}, apierrors.NewBadRequest("a UID, groups and extra cannot be impersonated without a user (Impersonate-User)")
	}
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
