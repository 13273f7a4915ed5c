package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// EnsureServer returns the server certificate kept as server.crt and server.key in dir. It issues a new one if there is
// none, if it was made by another authority or for other hosts, or if it ends within thirty days.
func (ca *CA) EnsureServer(dir string, hosts []string) (Pair, error) {
	keyFile, certFile := filepath.Join(dir, "server.key"), filepath.Join(dir, "server.crt")
	if pair, err := readPair(certFile, keyFile); err == nil && ca.serves(pair, hosts) {
		return pair, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Pair{}, fmt.Errorf("read the server certificate: %w", err)
	}
	pair, err := ca.Server(hosts)
	if err != nil {
		return Pair{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Pair{}, fmt.Errorf("make the directory of the server certificate: %w", err)
	}
	if err := writePair(certFile, keyFile, pair); err != nil {
		return Pair{}, fmt.Errorf("write the server certificate: %w", err)
	}
	return pair, nil
}

// serves reports whether pair is a server certificate that can be used for another while under exactly these hosts.
func (ca *CA) serves(pair Pair, hosts []string) bool {
	cert, ok := ca.vouches(pair, x509.ExtKeyUsageServerAuth)
	if !ok {
		return false
	}
	have := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		have = append(have, ip.String())
	}
	return slices.Equal(canonical(have), canonical(hosts))
}

// canonical sorts hosts and writes each address in its one shortest form.
func canonical(hosts []string) []string {
	var names []string
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			host = ip.String()
		}
		names = append(names, host)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// vouches returns pair's certificate if it fits its key, is signed by ca for this use, and ends after more than thirty days.
func (ca *CA) vouches(pair Pair, usage x509.ExtKeyUsage) (*x509.Certificate, bool) {
	both, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, false
	}
	_, err = both.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}})
	fresh := time.Until(both.Leaf.NotAfter) > renewBefore
	return both.Leaf, err == nil && fresh
}

// ServerTLS is how the API server listens: with the certificate of pair, asking clients for one of this authority. A
// client may come without; who it is then, and whether it may stay, is decided above TLS. A certificate of another
// authority ends the handshake.
func (ca *CA) ServerTLS(pair Pair) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("use the server certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    ca.Pool(),
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}
