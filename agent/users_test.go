package agent

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestUserRanges(t *testing.T) {
	d := dirs{data: filepath.Join(t.TempDir(), "a[b")} // A name that is no pattern.
	var ranges userRanges
	read := func() {
		t.Helper()
		ranges = userRanges{}
		if err := ranges.read(d); err != nil {
			t.Fatal(err)
		}
	}
	want := func(uid string, want uint32) {
		t.Helper()
		pod := &v1.Pod{Spec: v1.PodSpec{HostUsers: new(bool)}}
		pod.UID = types.UID(uid)
		if got, err := ranges.of(pod, d); err != nil || got != want {
			t.Errorf("the users of pod %s begin at %#x (%v), want %#x", uid, got, err, want)
		}
	}
	read()
	if first, err := ranges.of(&v1.Pod{}, d); first != 0 || err != nil {
		t.Errorf("a pod that says nothing has the users %#x: %v", first, err)
	}
	want("a", 0x70000000)
	want("b", 0x70010000)
	want("a", 0x70000000)
	read()
	want("c", 0x70020000)
	want("b", 0x70010000)
	ranges.forget("a")
	if err := os.RemoveAll(filepath.Dir(d.users("a"))); err != nil {
		t.Fatal(err)
	}
	want("d", 0x70000000)
	if err := os.WriteFile(d.users("b"), []byte("0\n"), 0o600); err != nil { // A power cut, or somebody who wants to be root.
		t.Fatal(err)
	}
	read()
	want("e", 0x70010000)
	want("b", 0x70030000)
}
