package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestParseURIs(t *testing.T) {
	out := `Reading package lists...
'http://mirror.example/debian/pool/main/z/zlib/zlib1g_1.2.13_amd64.deb' zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 SHA256:ab
'http://mirror.example/debian/pool/main/c/curl/curl_7.88_amd64.deb' curl_7.88.1-10+deb12u15_amd64.deb 315764
`
	got, err := parseURIs([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := []deb{
		{name: "curl", version: "7.88.1-10+deb12u15", file: "curl_7.88.1-10+deb12u15_amd64.deb"},
		{name: "zlib1g", version: "1:1.2.13.dfsg-1", file: "zlib1g_1%3a1.2.13.dfsg-1_amd64.deb"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(deb{})); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "'http://x/y.deb' y.deb 3\n"} {
		if _, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("parseURIs(%q): no error", bad)
		}
	}
}

// entry is one line of a test's tar.
func entry(kind byte, name, rest string) *tar.Header {
	h := &tar.Header{Typeflag: kind, Name: name, Mode: 0o755}
	switch kind {
	case tar.TypeReg:
		h.Size = int64(len(rest))
	default:
		h.Linkname = rest
	}
	return h
}

func packageTar(t *testing.T, entries map[*tar.Header]string, order []*tar.Header) io.Reader {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range order {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, entries[h]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestAddTar(t *testing.T) {
	program := entry(tar.TypeReg, "./bin/tool", "program")
	order := []*tar.Header{
		entry(tar.TypeDir, "./", ""), entry(tar.TypeDir, "./bin/", ""), program,
		entry(tar.TypeLink, "./usr/bin/twin", "./bin/tool"),
		entry(tar.TypeSymlink, "./lib/tool.so", "../x"),
	}
	root := tree{}
	if err := root.addTar(packageTar(t, map[*tar.Header]string{program: "program"}, order)); err != nil {
		t.Fatal(err)
	}
	tool := file{kind: tar.TypeReg, mode: 0o755, data: []byte("program")}
	want := tree{
		"usr/bin":         {kind: tar.TypeDir, mode: 0o755},
		"usr/bin/tool":    tool,
		"usr/bin/twin":    tool,
		"usr/lib/tool.so": {kind: tar.TypeSymlink, mode: 0o755, target: "../x"},
	}
	if diff := cmp.Diff(want, root, cmp.AllowUnexported(file{})); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}

	for _, bad := range []*tar.Header{entry(tar.TypeLink, "a", "nowhere"), entry(tar.TypeChar, "dev/null", "")} {
		if err := (tree{}).addTar(packageTar(t, nil, []*tar.Header{bad})); err == nil {
			t.Errorf("%s of type %c: no error", bad.Name, bad.Typeflag)
		}
	}
	if got := place("../../etc/passwd"); got != "etc/passwd" {
		t.Errorf("a name that leaves the root goes to %q", got)
	}
}

// A real package, made here, through dpkg-deb.
func TestAddPackage(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("needs dpkg-deb")
	}
	dir := t.TempDir()
	write := func(name, data string) {
		name = filepath.Join(dir, "pkg", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("DEBIAN/control", "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n")
	write("sbin/x", "hello")
	deb := filepath.Join(dir, "x.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", filepath.Join(dir, "pkg"), deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	root := newTree()
	if err := root.addPackage(t.Context(), deb); err != nil {
		t.Fatal(err)
	}
	if got := string(root["usr/sbin/x"].data); got != "hello" || root["sbin"].target != "usr/sbin" {
		t.Errorf("usr/sbin/x holds %q and sbin points to %q", got, root["sbin"].target)
	}
	if err := os.WriteFile(deb, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := newTree().addPackage(t.Context(), deb); err == nil {
		t.Error("no error for a file that is no package")
	}
}

// A library stays if a program needs it; one that is needed and missing stops the build.
func TestShakeLibraries(t *testing.T) {
	host, err := os.ReadFile("/bin/ls")
	if err != nil || !bytes.Contains(host, []byte("libc.so.6")) {
		t.Skip("needs a /bin/ls that is linked with glibc")
	}
	names, err := tree{"ls": {kind: tar.TypeReg, data: host}}.needs("ls")
	if err != nil || len(names) == 0 {
		t.Fatalf("/bin/ls needs %v, error %v", names, err)
	}
	root := tree{"usr/bin/ls": {kind: tar.TypeReg, data: host}, "usr/lib/x/libunused.so.1": {kind: tar.TypeReg}, "usr/lib/x/y/plugin.so": {kind: tar.TypeReg}}
	for _, name := range names {
		root.link("usr/lib/x/"+name, name+".0")
		root.write("usr/lib/x/"+name+".0", nil)
	}
	all := len(root)
	if err := root.shakeLibraries(); err != nil {
		t.Fatal(err)
	}
	if root.has("usr/lib/x/libunused.so.1") || len(root) != all-1 {
		t.Errorf("left: %v, want all but libunused.so.1", root.names())
	}
	delete(root, "usr/lib/x/"+names[0])
	if err := root.shakeLibraries(); err == nil || !strings.Contains(err.Error(), "usr/bin/ls needs "+names[0]) {
		t.Errorf("without %s: error %v", names[0], err)
	}
}

// The same files give the same archive, byte for byte, and the archive knows its inputs.
func TestArchiveIsReproducible(t *testing.T) {
	r := recipe{name: "test", config: v1.Config{Cmd: []string{"sh"}}}
	build := func(names ...string) (digest string, data []byte) {
		root := newTree()
		for _, name := range names {
			root.write(name, []byte(strings.Repeat(name, 100_000)))
		}
		file := filepath.Join(t.TempDir(), "test.tar")
		digest, err := writeImage(file, r, root, "the inputs")
		if err != nil {
			t.Fatal(err)
		}
		if inputs, err := readInputs(file); inputs != "the inputs" || err != nil {
			t.Errorf("the archive's inputs are %q, error %v", inputs, err)
		}
		if data, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		return digest, data
	}
	one, first := build("a", "b", "c")
	two, second := build("c", "a", "b")
	if one != two || !bytes.Equal(first, second) {
		t.Errorf("two builds of the same files are %s (%d bytes) and %s (%d bytes)", one, len(first), two, len(second))
	}
	if other, _ := build("a", "b"); other == one {
		t.Error("an image with other files has the same digest")
	}
	if !bytes.Contains(first, []byte(`"io.containerd.image.name":"docker.io/library/test:latest"`)) {
		t.Error("the archive does not carry the image's name")
	}
}

func TestFingerprint(t *testing.T) {
	of := func(files ...string) string {
		var debs []deb
		for _, f := range files {
			debs = append(debs, deb{file: f})
		}
		sum, err := fingerprint(debs)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first, again, newer := of("a_1_all.deb"), of("a_1_all.deb"), of("a_2_all.deb")
	if first != again || first == newer {
		t.Error("the fingerprint does not follow the packages")
	}
}

func TestWithoutApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := run(t.Context(), []string{"-out", t.TempDir()}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "no apt-get here") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line that says that apt-get is missing", err)
	}
}

func TestUnknownImage(t *testing.T) {
	err := run(context.Background(), []string{"-out", t.TempDir(), "postgres"}, io.Discard, io.Discard)
	if want := `no image "postgres": there are nginx, busybox, resolver`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}
