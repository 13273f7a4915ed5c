package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A pod's group gets all that is in a volume, and nothing that links of a volume lead to.
func TestGiveToGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives files to a group")
	}
	outside, dir := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := errors.Join(
		os.WriteFile(secret, nil, 0o600), os.Mkdir(filepath.Join(dir, "sub"), 0o700), os.WriteFile(filepath.Join(dir, "sub", "file"), nil, 0o600),
		os.Symlink(secret, filepath.Join(dir, "link")), os.Symlink(outside, filepath.Join(dir, "out")), os.Chmod(dir, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	check := func(path string, group int, mode fs.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil || groupOf(info) != group || info.Mode()&^fs.ModeDir != mode {
			t.Errorf("%s: group %d, mode %v (%v), want group %d, mode %v", path, groupOf(info), info.Mode(), err, group, mode)
		}
	}
	if err := giveToGroup(dir, 4321, true, nil); err != nil {
		t.Fatal(err)
	}
	check(filepath.Join(dir, "sub", "file"), 4321, 0o640)
	if err := giveToGroup(dir, 4321, false, nil); err != nil {
		t.Fatal(err)
	}
	check(dir, 4321, fs.ModeSetgid|0o775)
	check(filepath.Join(dir, "sub"), 4321, fs.ModeSetgid|0o770)
	check(filepath.Join(dir, "sub", "file"), 4321, 0o660)
	check(secret, 0, 0o600)
	check(outside, 0, 0o755)

	later := filepath.Join(dir, "later")
	if err := errors.Join(os.WriteFile(later, nil, 0o600), os.Chown(later, 0, 0), giveToGroup(dir, 4321, false, new(v1.FSGroupChangeOnRootMismatch))); err != nil {
		t.Fatal(err)
	}
	check(later, 0, 0o600) // The root is right, so that is taken to be so too.
}
