package pki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The key is made once, for its owner's eyes only, and is the same at every later start.
func TestAccountKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, err := EnsureAccountKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := EnsureAccountKey(dir)
	if err != nil || !first.Equal(again) {
		t.Errorf("the next start has another key, error %v", err)
	}
	file := filepath.Join(dir, "sa.key")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of sa.key: %v, error %v; want 0600", info, err)
	}
	for content, want := range map[string]string{
		"": "has no PEM in it",
		"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n": "sa.key: ",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := EnsureAccountKey(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %q in sa.key: error %v, want one with %q", content, err, want)
		}
	}
}
