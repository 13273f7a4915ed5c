package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func newCAIn(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := EnsureCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func certificate(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("not PEM: %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestEnsureCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ca := newCAIn(t, dir)
	if again := newCAIn(t, dir); !slices.Equal(ca.PEM(), again.PEM()) {
		t.Error("the second start made another authority")
	}
	cert := certificate(t, ca.PEM())
	if !cert.IsCA || time.Until(cert.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("the authority: IsCA %v, until %v, want a CA for ten years", cert.IsCA, cert.NotAfter)
	}
	if got := mode(t, filepath.Join(dir, "ca.key")); got != 0o600 {
		t.Errorf("ca.key has mode %o, want 600", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestEnsureCABroken(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"the key is lost", func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }, "ca.key is missing"},
		{"the certificate is damaged", func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o644) }, "PEM"},
		{"the key is another's", func(dir string) error {
			other, err := newCA("/nonexistent/ca.crt")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "ca.key"), other.Key, 0o600)
		}, "private key does not match"},
		{"the certificate is none of an authority", func(dir string) error {
			pair, err := sign(&x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, nil)
			if err != nil {
				return err
			}
			return writePair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), pair)
		}, "not a certificate authority"},
		{"it has expired", func(dir string) error {
			pair, err := sign(&x509.Certificate{NotAfter: time.Now().Add(-time.Hour), IsCA: true, BasicConstraintsValid: true}, nil)
			if err != nil {
				return err
			}
			return writePair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), pair)
		}, "expired on "},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			newCAIn(t, dir)
			if err := tc.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := EnsureCA(dir); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("EnsureCA: error %v, want one with %q and the directory", err, tc.want)
			}
		})
	}
}

// A start that was killed between the two files goes on as if it were the first.
func TestEnsureCAHalfWritten(t *testing.T) {
	dir := t.TempDir()
	newCAIn(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	newCAIn(t, dir)
}

func TestEnsureServer(t *testing.T) {
	dir := t.TempDir()
	ca, hosts := newCAIn(t, dir), []string{"kubernetes.default.svc", "10.43.0.1", "::1", "localhost"}
	first, err := ca.EnsureServer(dir, hosts)
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, first.Cert)
	for _, host := range hosts {
		if err := cert.VerifyHostname(host); err != nil {
			t.Errorf("the certificate is not for %s: %v", host, err)
		}
	}
	if got := mode(t, filepath.Join(dir, "server.key")); got != 0o600 {
		t.Errorf("server.key has mode %o, want 600", got)
	}

	soon := leafUntil(t, ca, hosts, 29*24*time.Hour)
	fresh := leafUntil(t, ca, hosts, 31*24*time.Hour)
	other, err := newCAIn(t, t.TempDir()).Server(hosts)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Client("somebody")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name  string
		have  Pair
		hosts []string
		keeps bool
	}{
		{"as before", first, hosts, true},
		{"in another order and spelling", first, []string{"localhost", "0:0::1", "10.43.0.1", "kubernetes.default.svc", "localhost"}, true},
		{"a host more", first, append(slices.Clone(hosts), "192.0.2.1"), false},
		{"a host less", first, hosts[1:], false},
		{"ends in 29 days", soon, hosts, false},
		{"ends in 31 days", fresh, hosts, true},
		{"of another authority", other, hosts, false},
		{"not a server's", client, nil, false},
		{"damaged", Pair{Cert: []byte("x"), Key: []byte("y")}, hosts, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if err := writePair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), tc.have); err != nil {
				t.Fatal(err)
			}
			got, err := ca.EnsureServer(dir, tc.hosts)
			if err != nil {
				t.Fatal(err)
			}
			if kept := cmp.Equal(got, tc.have); kept != tc.keeps {
				t.Errorf("kept the certificate: %v, want %v", kept, tc.keeps)
			}
			if again, err := ca.EnsureServer(dir, tc.hosts); err != nil || !cmp.Equal(got, again) {
				t.Errorf("the next start issued another certificate, error %v", err)
			}
		})
	}
}

// leafUntil is a server certificate that ends after d.
func leafUntil(t *testing.T, ca *CA, hosts []string, d time.Duration) Pair {
	t.Helper()
	whole, err := ca.Server(hosts)
	if err != nil {
		t.Fatal(err)
	}
	template := certificate(t, whole.Cert)
	template.NotAfter = time.Now().Add(d)
	pair, err := sign(template, ca)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// serve answers each request with who asks, as the API server would know it.
func serve(t *testing.T, ca *CA) string {
	t.Helper()
	pair, err := ca.EnsureServer(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			io.WriteString(w, "nobody")
			return
		}
		subject := r.TLS.PeerCertificates[0].Subject
		slices.Sort(subject.Organization)
		io.WriteString(w, subject.CommonName+" in "+strings.Join(subject.Organization, ","))
	}))
	if server.TLS, err = ca.ServerTLS(pair); err != nil {
		t.Fatal(err)
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func ask(t *testing.T, config *rest.Config) (string, error) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	response, err := client.Get(config.Host)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestClientIsKnownByItsCertificate(t *testing.T) {
	ca, other := newCAIn(t, t.TempDir()), newCAIn(t, t.TempDir())
	url := serve(t, ca)
	client := func(ca *CA, user string, groups ...string) Pair {
		pair, err := ca.Client(user, groups...)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	cases := []struct {
		name   string
		client Pair
		want   string
	}{
		{"administrator", client(ca, "admin", "system:masters"), "admin in system:masters"},
		{"several groups", client(ca, "system:node:a", "system:nodes", "b"), "system:node:a in b,system:nodes"},
		{"no certificate", Pair{}, "nobody"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := ask(t, ca.ClientConfig(url, tc.client)); got != tc.want || err != nil {
				t.Errorf("the server sees %q, error %v, want %q", got, err, tc.want)
			}
		})
	}
	if got, err := ask(t, ca.ClientConfig(url, client(other, "admin", "system:masters"))); err == nil {
		t.Errorf("a certificate of another authority was let in as %q", got)
	}
	if got, err := ask(t, other.ClientConfig(url, Pair{})); err == nil {
		t.Errorf("a client of another authority trusted the server: %q", got)
	}
	if _, err := ca.Client(""); err == nil {
		t.Error("a certificate was issued to a user without a name")
	}
}

func TestServerTLS(t *testing.T) {
	ca := newCAIn(t, t.TempDir())
	pair, err := ca.Server([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	config, err := ca.ServerTLS(pair)
	if err != nil {
		t.Fatal(err)
	}
	if config.ClientAuth != tls.VerifyClientCertIfGiven || config.MinVersion < tls.VersionTLS12 || config.ClientCAs == nil {
		t.Errorf("client auth %v with pool %v, TLS from %x; want VerifyClientCertIfGiven with the authority, TLS 1.2", config.ClientAuth, config.ClientCAs, config.MinVersion)
	}
	if _, err := ca.ServerTLS(Pair{}); err == nil {
		t.Error("no error without a certificate")
	}
}

func TestEnsureKubeconfig(t *testing.T) {
	ca := newCAIn(t, t.TempDir())
	url := serve(t, ca)
	path := filepath.Join(t.TempDir(), "admin.kubeconfig")
	ensure := func() string {
		t.Helper()
		if err := ca.EnsureKubeconfig(path, url, "admin", "system:masters"); err != nil {
			t.Fatal(err)
		}
		if got := mode(t, path); got != 0o600 {
			t.Errorf("the file has mode %o, want 600", got)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := ensure()
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, config); got != "admin in system:masters" || err != nil {
		t.Errorf("with the kubeconfig the server sees %q, error %v", got, err)
	}

	edited := first + "# mine\n"
	other := newCAIn(t, t.TempDir())
	spoil := map[string]func() error{
		"readable by all":      func() error { return os.Chmod(path, 0o644) },
		"damaged":              func() error { return os.WriteFile(path, []byte("}"), 0o600) },
		"missing":              func() error { return os.Remove(path) },
		"of another authority": func() error { return other.EnsureKubeconfig(path, url, "admin", "system:masters") },
		"another server":       func() error { return ca.EnsureKubeconfig(path, "https://127.0.0.1:1", "admin", "system:masters") },
		"another user":         func() error { return ca.EnsureKubeconfig(path, url, "guest", "system:masters") },
		"another group":        func() error { return ca.EnsureKubeconfig(path, url, "admin") },
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
				t.Fatal(err)
			}
			if ensure() != edited {
				t.Fatal("a file that works was written anew")
			}
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			spoiled, _ := os.ReadFile(path)
			got := ensure()
			if got == edited || got == string(spoiled) {
				t.Error("the file was left as it was")
			}
			config, err := clientcmd.BuildConfigFromFlags("", path)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ask(t, config); got != "admin in system:masters" || err != nil {
				t.Errorf("with the new file the server sees %q, error %v", got, err)
			}
		})
	}
}
