package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func TestEnvFile(t *testing.T) {
	for _, tc := range []struct{ text, want, err string }{
		{"A='one'", "one", ""},
		{"# A='no'\n\n  B='x'\n\tA='two words $A \\n' # said\nA='three'", `two words $A \n`, ""},
		{"B='x'\nA='first\nsecond\n\nlast'\nC='y'", "first\nsecond\n\nlast", ""},
		{"B='x'", "", ""},
		{"A= 'x'", "", ""},
		{"A=''", "", ""},
		{"A ='x'", "", "at line 1: whitespace before '=' is not allowed"},
		{"B='x'\nA=x", "", "at line 2: value must be enclosed in single quotes"},
		{"A='x' y", "", "at line 1: unexpected content after closing quote"},
		{"A='x", "", "unclosed single quote"},
		{"A", "", "at line 1: missing '='"},
		{"='x'", "", "at line 1: empty variable name"},
		{"A='x'\nnot read", "x", ""},
	} {
		got, err := keyOfEnvFile(tc.text, "A")
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("A in %q is %q (%v), want %q (%s)", tc.text, got, err, tc.want, tc.err)
		}
	}
}

// A container that may write to the volume leads nobody out of it, and holds nobody up.
func TestEnvFileOfVolume(t *testing.T) {
	dir, yes := t.TempDir(), true
	for name, text := range map[string]string{"inside/env": "A='here'\n", "outside": "A='secret'\n"} {
		file := filepath.Join(dir, "volume", name)
		if name == "outside" {
			file = filepath.Join(dir, name)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	volumes := map[string]volume{"data": {path: filepath.Join(dir, "volume")}}
	for name, to := range map[string]string{"link": "../outside", "far": filepath.Join(dir, "outside"), "within": "/inside/env"} {
		if err := os.Symlink(to, filepath.Join(volumes["data"].path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(volumes["data"].path, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		ref  v1.FileKeySelector
		want string
		ok   bool
		err  string
	}{
		{v1.FileKeySelector{Path: "inside/env", Key: "A"}, "here", true, ""},
		{v1.FileKeySelector{Path: "inside/env", Key: "B"}, "", false, `environment variable key "B" not found in file "inside/env"`},
		{v1.FileKeySelector{Path: "inside/env", Key: "B", Optional: &yes}, "", false, ""},
		{v1.FileKeySelector{Path: "none", Key: "A"}, "", false, "no such file"},
		{v1.FileKeySelector{Path: "none", Key: "A", Optional: &yes}, "", false, ""},
		{v1.FileKeySelector{Path: "link", Key: "A"}, "", false, "no such file"},
		{v1.FileKeySelector{Path: "far", Key: "A"}, "", false, "no such file"},
		{v1.FileKeySelector{Path: "within", Key: "A"}, "here", true, ""},
		{v1.FileKeySelector{Path: "/inside/env", Key: "A"}, "here", true, ""},
		{v1.FileKeySelector{Path: "pipe", Key: "A"}, "", false, "not a regular file"},
	} {
		tc.ref.VolumeName = "data"
		got, ok, err := fromFile(&tc.ref, volumes)
		if got != tc.want || ok != tc.ok || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s of %s is %q, %v (%v), want %q, %v (%s)", tc.ref.Key, tc.ref.Path, got, ok, err, tc.want, tc.ok, tc.err)
		}
	}
}

// To open some devices does something: a watchdog begins to run. They are told by what they are, before.
func TestEnvFileOpensNoDevice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "device")
	if err := unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(254, 65535))); err != nil {
		t.Skipf("only root makes devices: %v", err)
	}
	// Nobody serves this one: opening it would say so.
	if _, err := readEnvFile(dir, "device"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a device: %v", err)
	}
}
