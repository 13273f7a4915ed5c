package apiserver

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/utils/lru"
)

// tokens signs the tokens of ServiceAccounts, JSON Web Tokens by ES256, and knows its own signature again.
type tokens struct {
	issuer string // Who says so; also the audience that the API server itself is.
	signer jose.Signer
	public jose.JSONWebKey
	known  *lru.Cache // Claims whose signature was checked, by the hash of the token.
	noted  *lru.Cache // The hour in which it was last noted that a Secret's token is used, by the Secret's UID.
}

// Bounds of what is asked of tokens.
const (
	maxToken    = 16 << 10 // Bytes.
	maxKnown    = 1024
	tokenLeeway = jwt.DefaultLeeway // For clocks that differ.
)

func newTokens(issuer string, key *ecdsa.PrivateKey) (*tokens, error) {
	if key == nil || issuer == "" {
		return nil, errors.New("key of service account tokens: there is no key or no issuer")
	}
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of service account tokens: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		return nil, fmt.Errorf("key of service account tokens: %w", err)
	}
	public := jose.JSONWebKey{Key: &key.PublicKey, KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}
	return &tokens{issuer: issuer, signer: signer, public: public, known: lru.New(maxKnown), noted: lru.New(maxKnown)}, nil
}

// keyID names a key as Kubernetes does: by the hash of its public half.
func keyID(public *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// claims is what a token says. https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens
type claims struct {
	jwt.Claims
	Audience   []string `json:"aud"` // A list also where it is one: that of Claims would become a string.
	Kubernetes origin   `json:"kubernetes.io"`
}

// origin says whose token it is, and whose end it does not outlive.
type origin struct {
	Namespace string     `json:"namespace"`
	Account   objectRef  `json:"serviceaccount"`
	Pod       *objectRef `json:"pod,omitempty"`
	Secret    *objectRef `json:"secret,omitempty"`
	Node      *objectRef `json:"node,omitempty"`
}

type objectRef struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// sign makes a token that says all of the parts.
func (t *tokens) sign(parts ...any) (string, error) {
	builder := jwt.Signed(t.signer)
	for _, part := range parts {
		builder = builder.Claims(part)
	}
	text, err := builder.Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text, nil
}

// errForeign is of a token that somebody else may know; we don't.
var errForeign = errors.New("not a token of this cluster")

// verify returns what a token says, if we have signed it and it is valid now. The claims are shared: nobody may change them.
func (t *tokens) verify(text string, now time.Time) (*claims, error) {
	c, err := t.read(text)
	if err != nil {
		return nil, err
	}
	if c.Issuer != t.issuer && !c.inSecret() {
		return nil, errForeign
	}
	switch err := c.ValidateWithLeeway(jwt.Expected{Time: now}, tokenLeeway); {
	case errors.Is(err, jwt.ErrExpired):
		return nil, errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return nil, errors.New("service account token is not valid yet")
	case err != nil:
		return nil, fmt.Errorf("service account token claims could not be validated: %w", err)
	}
	return c, nil
}

// read returns what a token says, if we have signed it. The signature takes most of the time and does not change.
func (t *tokens) read(text string) (*claims, error) {
	if len(text) > maxToken {
		return nil, errForeign
	}
	hash := sha256.Sum256([]byte(text))
	if c, ok := t.known.Get(hash); ok {
		return c.(*claims), nil
	}
	signed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, errForeign
	}
	c, inSecret := &claims{}, secretOrigin{}
	if err := signed.Claims(t.public.Key, c, &inSecret); err != nil {
		return nil, err
	}
	if c.inSecret() {
		if c, err = inSecret.claimsOf(c.Claims, t.issuer); err != nil {
			return nil, err
		}
	}
	t.known.Add(hash, c)
	return c, nil
}

// firstThisHour says whether it is the first time in this hour that the question is put about a Secret.
func (t *tokens) firstThisHour(secret string, now time.Time) bool {
	hour := now.Truncate(time.Hour)
	last, ok := t.noted.Get(secret)
	t.noted.Add(secret, hour)
	return !ok || last != hour
}
