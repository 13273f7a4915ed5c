package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A token is renewed when a fifth of its life is left, or after a day, as by the kubelet: what holds on to it for a while longer
// must not fail. https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#serviceaccount-token-volume-projection
const (
	tokenMaxAge = 24 * time.Hour
	tokenJitter = 10 * time.Second // So that pods that were made together do not ask together.
	tokenRetry  = time.Minute      // After a renewal that failed, and at least between two.
)

// tokens gets the ServiceAccount tokens that pods have in volumes. Each is bound to its pod: it is worth nothing when the pod
// is gone.
type tokens struct {
	client  kubernetes.Interface
	contact *contact

	mu   sync.Mutex
	held map[string]map[tokenKey]token // By the pod's UID.
}

// tokenKey is what a volume says of the token that it wants.
type tokenKey struct {
	audience string
	seconds  int64
}

type token struct {
	text         string
	due, expires time.Time // When it is to be renewed, and when it is worth nothing.
}

func newTokens(client kubernetes.Interface, contact *contact) *tokens {
	return &tokens{client: client, contact: contact, held: map[string]map[tokenKey]token{}}
}

// get returns a token that is good now. One that could not be renewed in time is used to its end, and longer where the API does not
// answer: whoever is started meanwhile finds the file.
func (t *tokens) get(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (token, error) {
	key := tokenKey{audience: p.Audience, seconds: tokenSeconds(p)}
	had, now := t.holds(string(pod.UID), key), time.Now()
	if now.Before(had.due) {
		return had, nil
	}
	next, err := t.request(ctx, pod, key)
	if err != nil && (now.Before(had.expires) || unanswered(err) && had.text != "") {
		slog.Warn("a token could not be renewed; the pod keeps the one that it has", "pod", pod.Namespace+"/"+pod.Name, "expires", had.expires, "err", err)
		had.due = now.Add(tokenRetry)
		next, err = had, nil
	}
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	t.hold(string(pod.UID), key, next)
	return next, nil
}

func tokenSeconds(p *v1.ServiceAccountTokenProjection) int64 {
	if p.ExpirationSeconds != nil {
		return *p.ExpirationSeconds
	}
	return int64(time.Hour / time.Second) // As the API server defaults it.
}

func (t *tokens) request(ctx context.Context, pod *v1.Pod, key tokenKey) (token, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	var given *authenticationv1.TokenRequest
	err := t.contact.ask(ctx, func(ctx context.Context) (err error) {
		given, err = t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return token{}, err
	}
	life := key.seconds
	if given.Spec.ExpirationSeconds != nil {
		life = *given.Spec.ExpirationSeconds
	}
	expires := given.Status.ExpirationTimestamp.Time
	due := tokenDue(expires, time.Duration(life)*time.Second).Add(-rand.N(tokenJitter))
	if soonest := time.Now().Add(tokenRetry); due.Before(soonest) { // By this node's clock, which may be ahead of the API server's.
		due = soonest
	}
	return token{text: given.Status.Token, expires: expires, due: due}, nil
}

// tokenDue is when a token is to be renewed that lives until expires.
func tokenDue(expires time.Time, life time.Duration) time.Time {
	return expires.Add(-life).Add(min(life*4/5, tokenMaxAge))
}

func (t *tokens) holds(uid string, key tokenKey) token {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[uid][key]
}

func (t *tokens) hold(uid string, key tokenKey, next token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[uid] == nil {
		t.held[uid] = map[tokenKey]token{}
	}
	t.held[uid][key] = next
}

// forget drops the tokens of a pod that is over.
func (t *tokens) forget(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.held, uid)
}

// fsUser is the user that all containers of a pod run as, if they say so and agree: a token is his, and nobody else reads it.
func fsUser(pod *v1.Pod) *int64 {
	var user *int64
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		var own *int64
		if pod.Spec.SecurityContext != nil {
			own = pod.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			own = c.SecurityContext.RunAsUser
		}
		if own == nil || user != nil && *user != *own {
			return nil
		}
		user = own
	}
	return user
}
