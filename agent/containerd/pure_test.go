package containerd

import (
	"encoding/binary"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

func TestFullName(t *testing.T) {
	const sum = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for ref, want := range map[string]string{
		"nginx":                       "docker.io/library/nginx:latest",
		"nginx:1.29":                  "docker.io/library/nginx:1.29",
		"me/app":                      "docker.io/me/app:latest",
		"localhost:5000/app":          "localhost:5000/app:latest",
		"registry.k8s.io/pause:3.10":  "registry.k8s.io/pause:3.10",
		"nginx@" + sum:                "docker.io/library/nginx@" + sum,
		"nginx:1.29@" + sum:           "docker.io/library/nginx@" + sum,
		"docker.io/library/nginx:new": "docker.io/library/nginx:new",
	} {
		got, err := fullName(ref)
		if err != nil || got != want {
			t.Errorf("fullName(%q) = %q, %v; want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", "Nginx", "a b", "nginx:"} {
		if got, err := fullName(ref); err == nil {
			t.Errorf("fullName(%q) = %q; want an error", ref, got)
		}
	}
}

func TestContainerdID(t *testing.T) {
	short := "2b0a1c34-5d6e-7f80-9102-a3b4c5d6e7f8-app-0"
	if got := containerdID(short); got != short {
		t.Errorf("a short ID became %q", got)
	}
	long := "2b0a1c34-5d6e-7f80-9102-a3b4c5d6e7f8-" + strings.Repeat("x", 63) + "-"
	a, b := containerdID(long+"0"), containerdID(long+"1")
	if len(a) > maxID || len(b) > maxID || a == b {
		t.Errorf("long IDs became %q and %q", a, b)
	}
}

func TestOnlyThePodsCgroupHasItsUIDInTheName(t *testing.T) {
	const uid = "2b0a1c34-5d6e-7f80-9102-a3b4c5d6e7f8"
	for name, long := range map[string]bool{"app": false, strings.Repeat("x", 63): true} {
		c := agent.ContainerConfig{ID: uid + "-" + name + "-0", Pod: agent.PodRef{UID: uid}, Name: name, CgroupParent: "/skiff/burstable/" + uid}
		dir, base := path.Split(cgroupFor(c))
		if dir != c.CgroupParent+"/" || base == "" || strings.Contains(base, uid) || (base == name+"-0") == long {
			t.Errorf("the cgroup of container %s is %s%s", name, dir, base)
		}
		if got := cgroupOf(containers.Container{Labels: labelsOf(c, "")}); got != dir+base {
			t.Errorf("the cgroup of a container in %s%s is remembered as %q", dir, base, got)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"1.6.20~ds1": true, "v1.7.27": true, "v2.1.4": true, "2.0.0-rc.1": true, "1.5.18": false, "v0.9": false, "deadbeef.m": true,
	} {
		if err := checkVersion(version); (err == nil) != ok {
			t.Errorf("checkVersion(%q) = %v; want accepted: %v", version, err, ok)
		}
	}
	if got := releaseOf("1.6.20~ds1"); got != "1.6.20" {
		t.Errorf("releaseOf(1.6.20~ds1) = %q", got)
	}
}

func TestAppendCRI(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name, data string
		want, rest string
	}{
		{name: "a line", data: "one\n", want: "T stdout F one\n"},
		{name: "lines and a beginning", data: "one\n\ntwo", want: "T stdout F one\nT stdout F \n", rest: "two"},
		{name: "only a beginning", data: "two", rest: "two"},
		{name: "nothing"},
		{name: "a line just as long as it may be", data: long + "\n", want: "T stdout F " + long + "\n"},
		{name: "a longer one", data: long + "yz\n", want: "T stdout P " + long + "\nT stdout F yz\n"},
		{name: "a longer beginning", data: long + "yz", want: "T stdout P " + long + "\n", rest: "yz"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			out, used := appendCRI(nil, []byte("T"), "stdout", []byte(tc.data))
			if diff := cmp.Diff([]string{tc.want, tc.rest}, []string{string(out), tc.data[used:]}); diff != "" {
				t.Errorf("entries and rest (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHasProfile(t *testing.T) {
	const list = "cups-browsed (enforce)\n/usr/bin/man (enforce)\nmy profile (complain)\n"
	for name, want := range map[string]bool{"/usr/bin/man": true, "my profile": true, "my": false, "cups-browsed (enforce)": false, "": false} {
		if got := hasProfile(list, name); got != want {
			t.Errorf("the kernel knows %q: %v, want %v", name, got, want)
		}
	}
}

func TestWrittenFiles(t *testing.T) {
	var events []byte
	event := func(name string, padded uint32) {
		head := make([]byte, unix.SizeofInotifyEvent)
		binary.NativeEndian.PutUint32(head[12:], padded)
		events = append(append(events, head...), append([]byte(name), make([]byte, int(padded)-len(name))...)...)
	}
	event("a.tar", 16)
	event("", 0)
	event("b.tar", 16)
	event("a.tar", 16)
	if diff := cmp.Diff([]string{"a.tar", "b.tar"}, writtenFiles(events)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// A volume that is mounted below another is seen, whichever the pod names first; and a pod's own mount stands for a standard one.
func TestMountOrder(t *testing.T) {
	s := &oci.Spec{Linux: &specs.Linux{}, Mounts: []specs.Mount{{Destination: "/proc"}, {Destination: "/dev"}, {Destination: "/dev/shm"}, {Destination: "/sys"}}}
	mounts(s, agent.ContainerConfig{Mounts: []agent.Mount{
		{Source: "deep", Target: "/data/sub/deep"}, {Source: "sub", Target: "/data/sub"}, {Source: "dev", Target: "/dev"}, {Source: "data", Target: "/data"},
	}}, "shm")
	var got []string
	for _, m := range s.Mounts {
		got = append(got, m.Destination)
	}
	want := []string{"/proc", "/sys", "/dev", "/data", "/dev/shm", "/data/sub", "/sys/fs/cgroup", "/data/sub/deep"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order of mounts (-want +got):\n%s", diff)
	}
}

func TestWhoTakesASignal(t *testing.T) {
	for _, c := range []struct {
		what, status string
		want         bool
	}{
		{"a program that catches it", "Name:\tnginx\nNSpid:\t4711\t1\nSigCgt:\t0000000000004004\n", true},
		{"one that does not yet", "Name:\tnginx\nNSpid:\t4711\t1\nSigCgt:\t0000000000004000\n", false},
		{"one that is not process 1", "Name:\tnginx\nNSpid:\t4711\t7\nSigCgt:\t0000000000000000\n", true},
		{"one in the host's namespace", "Name:\tnginx\nNSpid:\t1\nSigCgt:\t0000000000000000\n", true},
		{"what will become it", "Name:\trunc:[2:INIT]\nNSpid:\t4711\t1\nSigCgt:\tfffffffe7fc1feff\n", false},
		{"one that the kernel does not tell of", "", true},
	} {
		if got := takes(c.status, syscall.SIGQUIT); got != c.want {
			t.Errorf("%s takes it: %t", c.what, got)
		}
	}
}
