package apiserver

import (
	"encoding/json"
	"net/http"

	"github.com/go-jose/go-jose/v4"
)

// The documents by which others can check the tokens of ServiceAccounts themselves, as OpenID Connect Discovery has them.
// https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery

const keysPath = "/openid/v1/jwks"

func (s *Server) issuerDocument(w http.ResponseWriter, _ *http.Request) error {
	return respondDocument(w, typeJSON, struct {
		Issuer        string   `json:"issuer"`
		JWKS          string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{
		s.tokens.issuer, "https://" + s.advertised().String() + keysPath,
		[]string{"id_token"}, []string{"public"}, []string{string(jose.ES256)},
	})
}

func (s *Server) keysDocument(w http.ResponseWriter, _ *http.Request) error {
	return respondDocument(w, "application/jwk-set+json", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.tokens.public}})
}

// respondDocument answers with what may be kept for a while.
func respondDocument(w http.ResponseWriter, media string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(body) // A client that went away is not an error of ours.
	return nil
}
