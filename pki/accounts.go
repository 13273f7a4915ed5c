package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// EnsureAccountKey returns the key kept as sa.key in dir, which signs the tokens of ServiceAccounts, and makes it if it is
// missing. Without the old key the tokens that it signed are worth nothing any more; their holders ask for new ones.
func EnsureAccountKey(dir string) (*ecdsa.PrivateKey, error) {
	file := filepath.Join(dir, "sa.key")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		data, err = newAccountKey(dir, file)
	}
	if err != nil {
		return nil, fmt.Errorf("key of service account tokens: %w", err)
	}
	return parseAccountKey(file, data)
}

// AccountKey reads a key that [EnsureAccountKey] made.
func AccountKey(file string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseAccountKey(file, data)
}

func parseAccountKey(file string, data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("key of service account tokens: %s has no PEM in it", file)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key of service account tokens: %s: %w", file, err)
	}
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key of service account tokens: %s is not on the curve P-256", file)
	}
	return key, nil
}

func newAccountKey(dir, file string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return data, writeFile(file, data, 0o600)
}
