package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods and others that are no people come as a ServiceAccount, with a token that the cluster has signed.
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/

const (
	accountPrefix = "system:serviceaccount:"  // Of users.
	accountsGroup = "system:serviceaccounts"  // Everyone of them.
	accountsOf    = "system:serviceaccounts:" // Everyone of a namespace.
)

// What is told of a user beside name and groups.
const (
	credentialKey = "authentication.kubernetes.io/credential-id"
	podNameKey    = "authentication.kubernetes.io/pod-name"
	podUIDKey     = "authentication.kubernetes.io/pod-uid"
	nodeNameKey   = "authentication.kubernetes.io/node-name"
	nodeUIDKey    = "authentication.kubernetes.io/node-uid"
)

var errInvalidToken = errors.New("invalid bearer token")

// bearer is the token in a request's Authorization header, "" for none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// identified is what a token tells.
type identified struct {
	User
	audiences []string // Those of the ones asked about that it is meant for.
	warning   string   // For who shows it; may be "".
}

// identify finds out whose token it is, and for which of the audiences it is meant.
func (s *Server) identify(ctx context.Context, token string, audiences []string, now time.Time) (identified, error) {
	c, err := s.tokens.verify(token, now)
	if errors.Is(err, errForeign) {
		return identified{}, errInvalidToken
	}
	var secret *corev1.Secret // That the token is in.
	warning := ""
	switch {
	case err != nil:
	case c.inSecret():
		secret, warning, err = s.stillInSecret(c, token)
	default:
		err = s.stillBound(c, now)
	}
	meant := slices.DeleteFunc(slices.Clone(audiences), func(a string) bool { return c == nil || !slices.Contains(c.Audience, a) })
	if err == nil && len(meant) == 0 {
		err = fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, audiences)
	}
	if secret != nil {
		s.noteUse(ctx, secret, now)
	}
	if err != nil {
		return identified{}, fmt.Errorf("[%w, %w]", errInvalidToken, err)
	}
	return identified{c.user(), meant, warning}, nil
}

// unboundError is of a valid token whose account, or what else it hangs on, is not there. Another server may just have made it.
type unboundError struct{ error }

// stillBound holds that all is there that a token hangs on, and is what it was.
func (s *Server) stillBound(c *claims, now time.Time) error {
	k := &c.Kubernetes
	account := s.shelf("serviceaccounts").get(objectKey(k.Namespace, k.Account.Name))
	unbound := func(format string, args ...any) error { return unboundError{fmt.Errorf(format, args...)} }
	switch {
	case account == nil:
		return unbound("serviceaccounts %q not found", k.Account.Name)
	case leftBefore(account.meta(), now):
		return unbound("service account %s/%s has been deleted", k.Namespace, k.Account.Name)
	case string(account.meta().GetUID()) != k.Account.UID:
		return unbound("service account UID (%s) does not match claim (%s)", account.meta().GetUID(), k.Account.UID)
	}
	node := k.Node
	if k.Pod != nil {
		node = nil // Where the pod is, or was: for information only.
	}
	for _, bound := range []struct {
		kind, resource, key string
		ref                 *objectRef
	}{
		{"secret", "secrets", k.Namespace + "/", k.Secret},
		{"pod", "pods", k.Namespace + "/", k.Pod},
		{"node", "nodes", "", node},
	} {
		if bound.ref == nil {
			continue
		}
		switch it := s.shelf(bound.resource).get(bound.key + bound.ref.Name); {
		case it == nil, leftBefore(it.meta(), now):
			return unbound("service account token has been invalidated")
		case string(it.meta().GetUID()) != bound.ref.UID:
			return unbound("%s UID (%s) does not match service account %s ref claim (%s)", bound.kind, it.meta().GetUID(), bound.kind, bound.ref.UID)
		}
	}
	return nil
}

// leftBefore says that an object should have been gone for a while.
func leftBefore(m metav1.Object, now time.Time) bool {
	at := m.GetDeletionTimestamp()
	return at != nil && at.Before(&metav1.Time{Time: now.Add(-tokenLeeway)})
}

// user is who comes with the token.
func (c *claims) user() User {
	k := &c.Kubernetes
	u := User{Name: c.Subject, UID: k.Account.UID, Groups: accountGroups(k.Namespace), Extra: map[string][]string{}}
	tell := func(key, value string) {
		if value != "" {
			u.Extra[key] = []string{value}
		}
	}
	if c.ID != "" {
		tell(credentialKey, "JTI="+c.ID)
	}
	if k.Pod != nil {
		tell(podNameKey, k.Pod.Name)
		tell(podUIDKey, k.Pod.UID)
	}
	if k.Node != nil {
		tell(nodeNameKey, k.Node.Name)
		tell(nodeUIDKey, k.Node.UID)
	}
	return u
}

func accountName(a *corev1.ServiceAccount) string { return accountPrefix + a.Namespace + ":" + a.Name }

func accountGroups(namespace string) []string {
	return []string{accountsGroup, accountsOf + namespace, authenticated}
}

// accountNamespace is the namespace of the ServiceAccount that a user is, if it is one.
func accountNamespace(user string) (string, bool) {
	rest, ok := strings.CutPrefix(user, accountPrefix)
	namespace, name, ok2 := strings.Cut(rest, ":")
	return namespace, ok && ok2 && namespace != "" && name != "" && !strings.Contains(name, ":")
}
