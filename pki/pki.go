// Package pki makes the keys and certificates by which the parts of a cluster know each other.
//
// A cluster has one certificate authority, made at the first start and kept in the data directory. It signs the API
// server's certificate and one certificate for each client: the common name is the user, each organization is a group
// that the user is in. So "system:masters" in a certificate is all the power there is, and who can read ca.key can make
// it. Every key is ECDSA on P-256 and lies in a file that only its owner can read. Files are replaced whole: after a
// crash there is the old file or the new one.
//
// Certificates last a year and are renewed at a start within the last thirty days; the authority lasts ten years.
//
// One more key, sa.key, has no certificate: it signs the tokens of ServiceAccounts (accounts.go).
//
// In Kubernetes: kubeadm's "certs" and "kubeconfig" phases. Left out: separate authorities for etcd and for the front
// proxy, and certificates signed by somebody else's authority.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	renewBefore  = 30 * 24 * time.Hour

	// A certificate is valid from a little before it was made, for clients whose clock is behind.
	clockSkew = time.Hour
)

// CA is a certificate authority: it signs, and says what it has signed. Get one with [EnsureCA].
type CA struct {
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its private key, both in PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// EnsureCA returns the authority whose files ca.crt and ca.key are in dir, and makes them, and dir, if they are missing.
func EnsureCA(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the certificate authority: %w", err)
	}
	keyFile, certFile := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt")
	pair, err := readPair(certFile, keyFile)
	if errors.Is(err, os.ErrNotExist) {
		if pair, err = newCA(certFile); err == nil {
			err = writePair(certFile, keyFile, pair)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	ca, err := parseCA(pair)
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	return ca, nil
}

// newCA makes an authority, but not over the remains of another: a certificate without its key means that the key was
// lost, and everything that it ever signed would stop working without a word.
func newCA(certFile string) (Pair, error) {
	if _, err := os.Stat(certFile); err == nil {
		return Pair{}, errors.New("ca.crt is there but ca.key is missing: put it back, or remove ca.crt to start a new authority")
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("skiff-ca@%d", now.Unix())},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return sign(template, nil)
}

func parseCA(pair Pair) (*CA, error) {
	both, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	key, ok := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !both.Leaf.IsCA {
		return nil, errors.New("ca.crt and ca.key are not a certificate authority with an ECDSA key")
	}
	if time.Now().After(both.Leaf.NotAfter) {
		return nil, fmt.Errorf("expired on %s", both.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &CA{cert: both.Leaf, pem: pair.Cert, key: key}, nil
}

// PEM returns the authority's certificate, by which others check what it has signed.
func (ca *CA) PEM() []byte { return ca.pem }

// Pool returns the authority as the only one to trust.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Client issues a certificate by which the API server knows its holder as user, a member of groups.
func (ca *CA) Client(user string, groups ...string) (Pair, error) {
	if user == "" {
		return Pair{}, errors.New("issue a client certificate: the user has no name")
	}
	pair, err := sign(leaf(pkix.Name{CommonName: user, Organization: groups}, x509.ExtKeyUsageClientAuth), ca)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a client certificate for %s: %w", user, err)
	}
	return pair, nil
}

// Server issues a certificate for a server that is reached under each of hosts, DNS names or IP addresses.
func (ca *CA) Server(hosts []string) (Pair, error) {
	template := leaf(pkix.Name{CommonName: "skiff-server"}, x509.ExtKeyUsageServerAuth)
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	pair, err := sign(template, ca)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a server certificate: %w", err)
	}
	return pair, nil
}

func leaf(subject pkix.Name, usage x509.ExtKeyUsage) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:               subject,
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(certLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
	}
}

// sign makes a new key and lets ca sign a certificate for it; without ca the key signs itself.
func sign(template *x509.Certificate, ca *CA) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generate a key: %w", err)
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, fmt.Errorf("choose a serial number: %w", err)
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
		if template.NotAfter.After(parent.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return Pair{}, fmt.Errorf("sign a certificate: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode a key: %w", err)
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
	}, nil
}
