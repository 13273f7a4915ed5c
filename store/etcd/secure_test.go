package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/store/storetest"
)

// An etcd that wants certificates gets one, and is checked itself.
func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	_, strangersKey := certificate(t)
	etcd := storetest.StartEtcd(t, "--cert-file="+cert, "--key-file="+key, "--trusted-ca-file="+cert, "--client-cert-auth")
	s := open(t, Config{Endpoints: []string{etcd.URL}, CAFile: cert, CertFile: cert, KeyFile: key})
	put(t, s, "a", "over TLS", 0)

	cases := []struct {
		name   string
		config Config
		want   string
	}{
		{"no certificate", Config{CAFile: cert}, "store unavailable"},
		{"an authority that we do not know", Config{CertFile: cert, KeyFile: key}, "certificate signed by unknown authority"},
		{"a key without certificate", Config{CAFile: cert, KeyFile: key}, "--etcd-certfile and --etcd-keyfile"},
		{"another's key", Config{CAFile: cert, CertFile: cert, KeyFile: strangersKey}, "private key does not match"},
		{"no TLS", Config{Endpoints: []string{strings.Replace(etcd.URL, "https", "http", 1)}}, "store unavailable"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if tc.config.Endpoints == nil {
				tc.config.Endpoints = []string{etcd.URL}
			}
			s, err := Open(t.Context(), tc.config)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Open: error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// certificate makes files of a certificate that is its own authority, for the host of etcd.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "skiff"}, IPAddresses: []net.IP{storetest.Host().AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// etcd's own users: a store lives with one that may do no more than use its prefix, and is told when it may not.
func TestUsers(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	root := open(t, Config{Endpoints: []string{etcd.URL}, Prefix: "/root"}).client
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(root.UserAdd(ctx, "root", "root"))
	must(root.UserGrantRole(ctx, "root", "root"))
	must(root.RoleAdd(ctx, "skiff"))
	must(root.RoleGrantPermission(ctx, "skiff", "/skiff/", clientv3.GetPrefixRangeEnd("/skiff/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	for user, role := range map[string]string{"ours": "skiff", "nobody": ""} {
		must(root.UserAdd(ctx, user, "secret"))
		if role != "" {
			must(root.UserGrantRole(ctx, user, role))
		}
	}
	must(root.AuthEnable(ctx))

	as := func(user string) []string { return []string{strings.Replace(etcd.URL, "//", "//"+user+"@", 1)} }
	s := open(t, Config{Endpoints: as("ours:secret")})
	put(t, s, "a", "", 0)
	for user, want := range map[string]string{
		"nobody:secret": "needs read and write access to the prefix",
		"ours:wrong":    "knows no such user and password",
	} {
		_, err := Open(ctx, Config{Endpoints: as(user)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open as %s: error %v, want one with %q", user, err, want)
		}
	}
	if _, err := Open(ctx, Config{Endpoints: []string{etcd.URL}}); err == nil || !strings.Contains(err.Error(), "user") {
		t.Errorf("Open as no user: error %v, want one that says so", err)
	}
}
