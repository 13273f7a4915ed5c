package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	accountsPath = "/api/v1/namespaces/default/serviceaccounts"
	secretsPath  = "/api/v1/namespaces/default/secrets"
	reviewPath   = "/apis/authentication.k8s.io/v1/tokenreviews"
	whoamiPath   = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	issuer       = "https://kubernetes.default.svc.cluster.local"
)

// createAccount makes a ServiceAccount, unless it is there, and returns it.
func (s *running) createAccount(t testing.TB, name string) *corev1.ServiceAccount {
	t.Helper()
	s.do(t, "POST", accountsPath, `{"metadata":{"name":"`+name+`"}}`)
	return parse[corev1.ServiceAccount](t, s.do(t, "GET", accountsPath+"/"+name, "").want(t, 200))
}

func (s *running) askToken(t testing.TB, account, spec string) answer {
	t.Helper()
	return s.do(t, "POST", accountsPath+"/"+account+"/token", `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":`+spec+`}`)
}

// token is a token of a ServiceAccount.
func (s *running) token(t testing.TB, account, spec string) string {
	t.Helper()
	return parse[authenticationv1.TokenRequest](t, s.askToken(t, account, spec).want(t, 201)).Status.Token
}

func (s *running) reviewToken(t testing.TB, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	review := authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}
	return parse[authenticationv1.TokenReview](t, s.do(t, "POST", reviewPath, toJSON(t, review)).want(t, 201)).Status
}

// with makes a request with a bearer token and nothing else.
func (s *running) with(t testing.TB, token, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", typeJSON)
	w := &recorded{header: http.Header{}}
	s.ServeHTTP(w, r)
	return answer{w.code, w.header, []byte(w.body.String())}
}

type recorded struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (w *recorded) Header() http.Header { return w.header }
func (w *recorded) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}
func (w *recorded) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// payload is what a token says, unchecked.
func payload(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JSON Web Token", token)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]any{}
	if err := json.Unmarshal(data, &said); err != nil {
		t.Fatal(err)
	}
	return said
}

// A token says who it is of, for whom, and how long.
func TestTokenRequest(t *testing.T) {
	s := start(t)
	account := s.createAccount(t, "robot")
	r := parse[authenticationv1.TokenRequest](t, s.askToken(t, "robot", `{"audiences":["a","b"],"expirationSeconds":600}`).want(t, 201))
	if r.Name != "robot" || r.Namespace != "default" || r.Kind != "TokenRequest" || !cmp.Equal(r.Spec.Audiences, []string{"a", "b"}) {
		t.Errorf("the answer is %+v", r)
	}
	said := payload(t, r.Status.Token)
	if said["exp"].(float64)-said["iat"].(float64) != 600 || said["nbf"] != said["iat"] || r.Status.ExpirationTimestamp.Unix() != int64(said["exp"].(float64)) || said["jti"] == "" {
		t.Errorf("times and id of %v, expiration %v", said, r.Status.ExpirationTimestamp)
	}
	for _, key := range []string{"exp", "iat", "nbf", "jti"} {
		delete(said, key)
	}
	want := map[string]any{
		"iss": issuer, "sub": "system:serviceaccount:default:robot", "aud": []any{"a", "b"},
		"kubernetes.io": map[string]any{"namespace": "default", "serviceaccount": map[string]any{"name": "robot", "uid": string(account.UID)}},
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	usual := parse[authenticationv1.TokenRequest](t, s.askToken(t, "robot", `{}`).want(t, 201))
	if said := payload(t, usual.Status.Token); said["exp"].(float64)-said["iat"].(float64) != 3600 || !cmp.Equal(said["aud"], any([]any{issuer})) || *usual.Spec.ExpirationSeconds != 3600 {
		t.Errorf("without wishes a token says %v", said)
	}
	dry := s.do(t, "POST", accountsPath+"/robot/token?dryRun=All", `{}`).want(t, 201)
	if got := parse[authenticationv1.TokenRequest](t, dry).Status; got.Token != "" || got.ExpirationTimestamp.IsZero() {
		t.Errorf("a dry run gives out %+v", got)
	}
	// As `kubectl create token` asks.
	proto, err := s.client(t, administrator, typeProto).CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil || proto.Status.Token == "" {
		t.Errorf("by protobuf: %+v, error %v", proto, err)
	}
}

func TestTokenRequestRefused(t *testing.T) {
	s := start(t)
	s.createAccount(t, "robot")
	s.createAccount(t, "default")
	s.createPod(t, "p")
	s.askToken(t, "none", `{}`).refused(t, 404, metav1.StatusReasonNotFound, `serviceaccounts "none" not found`)
	s.askToken(t, "robot", `{"expirationSeconds":599}`).refused(t, 422, metav1.StatusReasonInvalid, "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes")
	s.askToken(t, "robot", `{"expirationSeconds":4294967297}`).refused(t, 422, metav1.StatusReasonInvalid, "may not specify a duration larger than 2^32 seconds")
	s.do(t, "POST", accountsPath+"/robot/token", `{"metadata":{"name":"other"}}`).refused(t, 422, metav1.StatusReasonInvalid, "metadata.name: Invalid value: \"other\": must match the service account name if specified")
	s.do(t, "POST", accountsPath+"/robot/token", `{"metadata":{"namespace":"other"}}`).refused(t, 400, metav1.StatusReasonBadRequest)
	bound := func(kind, name, uid string) answer {
		return s.askToken(t, "robot", `{"boundObjectRef":{"apiVersion":"v1","kind":"`+kind+`","name":"`+name+`","uid":"`+uid+`"}}`)
	}
	bound("ConfigMap", "c", "").refused(t, 400, metav1.StatusReasonBadRequest, "cannot bind token to object of type /v1, Kind=ConfigMap")
	bound("Pod", "none", "").refused(t, 404, metav1.StatusReasonNotFound, `pods "none" not found`)
	bound("Pod", "p", "").refused(t, 400, metav1.StatusReasonBadRequest, `cannot bind token for serviceaccount "robot" to pod running with serviceaccount "default"`)
	s.do(t, "POST", secretsPath, `{"metadata":{"name":"s"}}`).want(t, 201)
	bound("Secret", "s", "another").refused(t, 409, metav1.StatusReasonConflict, "the UID in the bound object reference (another) does not match the UID in record.")
	s.doAs(t, stranger, "POST", accountsPath+"/robot/token", `{}`).refused(t, 403, metav1.StatusReasonForbidden, `User "jane" cannot create resource "serviceaccounts/token"`)
}

// Who comes with a token is a ServiceAccount in its groups. Before RBAC is enforced it may do nothing but ask who it is and what it may.
func TestBearerToken(t *testing.T) {
	s := start(t)
	account := s.createAccount(t, "robot")
	token := s.token(t, "robot", `{}`)
	me := parse[authenticationv1.SelfSubjectReview](t, s.with(t, token, "POST", whoamiPath, `{}`).want(t, 201)).Status.UserInfo
	want := authenticationv1.UserInfo{
		Username: "system:serviceaccount:default:robot", UID: string(account.UID),
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"},
		Extra:  map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"JTI=" + payload(t, token)["jti"].(string)}},
	}
	if diff := cmp.Diff(want, me); diff != "" {
		t.Errorf("who comes with the token (-want +got):\n%s", diff)
	}
	s.with(t, token, "GET", podsPath, "").refused(t, 403, metav1.StatusReasonForbidden,
		`pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default"`)
	s.with(t, token, "GET", "/api", "").want(t, 403)
	can := s.with(t, token, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"list","resource":"pods"}}}`).want(t, 201)
	if !strings.Contains(string(can.body), `"allowed":false`) {
		t.Errorf("it is told that it may: %s", can.body)
	}
	for name, bad := range map[string]string{
		"no token": "", "words": "a.b.c", "another audience": s.token(t, "robot", `{"audiences":["vault"]}`), "cut short": token[:len(token)-2],
		"endless": strings.Repeat("a", maxToken+1),
	} {
		if a := s.with(t, bad, "GET", podsPath, ""); a.code != 401 {
			t.Errorf("%s: code %d, want 401", name, a.code)
		}
	}
}

// forge signs what a token of robot would say, changed, with a key.
func (s *running) forge(t testing.TB, key *ecdsa.PrivateKey, change func(c *claims)) string {
	t.Helper()
	account := s.createAccount(t, "robot")
	c, err := s.claimsFor(&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr[int64](600)}}, account)
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TokenReview says the truth of every token, and why one is nobody's.
func TestTokenReview(t *testing.T) {
	s := start(t)
	account := s.createAccount(t, "robot")
	ours := s.config.AccountKey
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, token string
		audiences   []string
		meant       []string // For nobody: it is refused.
		why         string
	}{
		{"a token", s.token(t, "robot", `{}`), nil, []string{issuer}, ""},
		{"for one of those asked", s.token(t, "robot", `{"audiences":["vault","x"]}`), []string{"y", "vault"}, []string{"vault"}, ""},
		{"for others", s.token(t, "robot", `{"audiences":["vault"]}`), nil, nil,
			`[invalid bearer token, token audiences ["vault"] is invalid for the target audiences ["` + issuer + `"]]`},
		{"not a token", "hello", nil, nil, "invalid bearer token"},
		{"of another key", s.forge(t, other, func(*claims) {}), nil, nil, "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]"},
		{"of another issuer", s.forge(t, ours, func(c *claims) { c.Issuer = "https://example.com" }), nil, nil, "invalid bearer token"},
		{"expired", s.forge(t, ours, func(c *claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-2 * tokenLeeway)) }), nil, nil,
			"[invalid bearer token, service account token has expired]"},
		{"not valid yet", s.forge(t, ours, func(c *claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(2 * tokenLeeway)) }), nil, nil,
			"[invalid bearer token, service account token is not valid yet]"},
		{"of an account that is not there", s.forge(t, ours, func(c *claims) { c.Kubernetes.Account.Name = "gone" }), nil, nil,
			`[invalid bearer token, serviceaccounts "gone" not found]`},
		{"of an earlier account", s.forge(t, ours, func(c *claims) { c.Kubernetes.Account.UID = "earlier" }), nil, nil,
			fmt.Sprintf("[invalid bearer token, service account UID (%s) does not match claim (earlier)]", account.UID)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 { // The second time what is known of the token is used.
				got := s.reviewToken(t, tc.token, tc.audiences...)
				if got.Authenticated != (tc.meant != nil) || got.Error != tc.why || !cmp.Equal(got.Audiences, tc.meant) || (got.User.Username != "") != got.Authenticated {
					t.Errorf("%+v, want audiences %q, error %q", got, tc.meant, tc.why)
				}
			}
		})
	}
	s.do(t, "POST", reviewPath, `{}`).refused(t, 400, metav1.StatusReasonBadRequest, "token is required for TokenReview in authentication")
	s.doAs(t, stranger, "POST", reviewPath, `{"spec":{"token":"x"}}`).want(t, 403)
}

// A token that is bound to an object ends with it.
func TestBoundTokens(t *testing.T) {
	s := start(t)
	s.createAccount(t, "default")
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`).want(t, 201)
	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	s.do(t, "POST", secretsPath, `{"metadata":{"name":"s"}}`).want(t, 201)
	ref := func(kind, name string) string {
		return `{"boundObjectRef":{"apiVersion":"v1","kind":"` + kind + `","name":"` + name + `"}}`
	}
	ofPod, ofSecret, ofNode, ofNone := s.token(t, "default", ref("Pod", "p")), s.token(t, "default", ref("Secret", "s")), s.token(t, "default", ref("Node", "n1")), s.token(t, "default", `{}`)
	pod := s.pod(t, "p")
	extra := s.reviewToken(t, ofPod).User.Extra
	for key, want := range map[string]string{podNameKey: "p", podUIDKey: string(pod.UID), nodeNameKey: "n1"} {
		if got := extra[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s of a pod's token is %q, want %q", key, got, want)
		}
	}
	valid := func(token string, want bool) {
		t.Helper()
		if got := s.reviewToken(t, token); got.Authenticated != want || !want && !strings.Contains(got.Error, "service account token has been invalidated") {
			t.Errorf("%+v, want authenticated %v", got, want)
		}
	}
	for _, token := range []string{ofPod, ofSecret, ofNode, ofNone} {
		valid(token, true)
	}
	s.do(t, "DELETE", secretsPath+"/s", "").want(t, 200)
	valid(ofSecret, false)
	s.do(t, "DELETE", "/api/v1/nodes/n1", "").want(t, 200)
	valid(ofNode, false)
	valid(ofPod, true) // Its node is told of, and no more.
	s.do(t, "DELETE", podsPath+"/p?gracePeriodSeconds=0", "").want(t, 200)
	valid(ofPod, false)
	s.createPod(t, "p")
	if got := s.reviewToken(t, ofPod); got.Authenticated || !strings.Contains(got.Error, "does not match service account pod ref claim") {
		t.Errorf("with another pod of the name: %+v", got)
	}
	valid(ofNone, true)
	s.do(t, "DELETE", accountsPath+"/default", "").want(t, 200)
	if got := s.reviewToken(t, ofNone); got.Authenticated || !strings.Contains(got.Error, `serviceaccounts "default" not found`) {
		t.Errorf("of an account that is gone: %+v", got)
	}
}

// A node gets tokens for the pods that run on it, for those whom the pod is to show them to, and no others.
func TestNodesAskForTokens(t *testing.T) {
	s := start(t)
	for _, name := range []string{"mine", "other"} {
		s.createAccount(t, name)
		s.do(t, "POST", podsPath, `{"metadata":{"name":"`+name+`"},"spec":{"serviceAccountName":"`+name+`","containers":[{"name":"c","image":"i"}],
			"volumes":[{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"t"}},{"serviceAccountToken":{"path":"v","audience":"vault"}}]}}]}}`).want(t, 201)
	}
	s.bind(t, "mine", "n1").want(t, 201)
	s.bind(t, "other", "n2").want(t, 201)
	ask := func(account, pod, uid, more string) answer {
		return s.doAs(t, nodeUser, "POST", accountsPath+"/"+account+"/token", `{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"`+pod+`","uid":"`+uid+`"}`+more+`}}`)
	}
	mine, other := string(s.pod(t, "mine").UID), string(s.pod(t, "other").UID)
	ask("mine", "mine", mine, "").want(t, 201)
	ask("mine", "mine", mine, `,"audiences":["vault"]`).want(t, 201)
	ask("mine", "mine", mine, `,"audiences":["bank"]`).refused(t, 403, metav1.StatusReasonForbidden, `audience "bank" not found in pod spec volume`)
	ask("mine", "mine", mine, `,"audiences":["vault","bank"]`).refused(t, 403, metav1.StatusReasonForbidden, "node may only request 0 or 1 audiences")
	ask("mine", "mine", "", "").refused(t, 403, metav1.StatusReasonForbidden, "node requested token with a pod binding without a uid")
	ask("mine", "mine", other, "").refused(t, 403, metav1.StatusReasonForbidden, "does not match the UID in record")
	ask("mine", "other", other, "").refused(t, 403, metav1.StatusReasonForbidden, "node requested token bound to a pod scheduled on a different node")
	ask("other", "other", other, "").refused(t, 403, metav1.StatusReasonForbidden, `User "system:node:n1" cannot create resource "serviceaccounts/token"`)
	s.doAs(t, nodeUser, "POST", accountsPath+"/mine/token", `{}`).refused(t, 403, metav1.StatusReasonForbidden, "node requested token not bound to a pod")
	s.doAs(t, nodeUser, "GET", accountsPath+"/mine", "").want(t, 403)
}

// What the discovery documents say is enough to check a token.
func TestIssuerDiscovery(t *testing.T) {
	s := start(t)
	s.createAccount(t, "robot")
	config := parse[struct {
		Issuer string   `json:"issuer"`
		JWKS   string   `json:"jwks_uri"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}](t, s.do(t, "GET", "/.well-known/openid-configuration", "").want(t, 200))
	if config.Issuer != issuer || config.JWKS != "https://192.0.2.1:6443/openid/v1/jwks" || !cmp.Equal(config.Algs, []string{"ES256"}) {
		t.Errorf("the configuration is %+v", config)
	}
	a := s.do(t, "GET", "/openid/v1/jwks", "").want(t, 200)
	if strings.Contains(string(a.body), `"d"`) || a.header.Get("Content-Type") != "application/jwk-set+json" {
		t.Errorf("the keys as %s are %s, want public ones only", a.header.Get("Content-Type"), a.body)
	}
	keys := parse[jose.JSONWebKeySet](t, a)
	token, err := jwt.ParseSigned(s.token(t, "robot", `{}`), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if got := keys.Key(token.Headers[0].KeyID); len(got) != 1 || token.Claims(got[0].Key, &jwt.Claims{}) != nil {
		t.Errorf("a token of key %q cannot be checked by %s", token.Headers[0].KeyID, a.body)
	}
	s.doAs(t, stranger, "GET", "/openid/v1/jwks", "").want(t, 403)
}
