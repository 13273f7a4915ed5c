package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newCNI writes a configuration of the reference plugins: a bridge, with addresses of 10.42.7.0/24.
func newCNI(t *testing.T) *CNI {
	t.Helper()
	const bin = "/usr/lib/cni" // Where the package containernetworking-plugins puts them.
	if _, err := os.Stat(filepath.Join(bin, "bridge")); err != nil {
		t.Skip("needs the reference CNI plugins")
	}
	// Plugins remember in /var/lib/cni; this mount is the test's own.
	if err := inOrder(
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, "") },
	); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": {"type": "host-local", "subnet": "10.42.7.0/24", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": %q}}]}`, filepath.Join(dir, "addresses"))
	if err := os.WriteFile(filepath.Join(dir, "10-test.conflist"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	return &CNI{ConfDir: dir, BinDirs: []string{bin}, NodeAddress: netip.MustParseAddr("10.42.7.1")}
}

// addresses lists what the plugins have given out.
func (c *CNI) addresses(t *testing.T) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.ConfDir, "addresses", "test"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "10.") {
			all = append(all, e.Name())
		}
	}
	return all
}

// TestCNI has plugins connect two pods, over a restart, and take back what they gave.
func TestCNI(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	c.CNI = newCNI(t)
	// The route of Services needs the node's address, which in this namespace is that of the bridge.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.42.7.1/24"))}); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, c)
	a, b := setup(t, n, "a"), setup(t, n, "b")
	if pods := netip.MustParsePrefix("10.42.7.0/24"); a.Addr == b.Addr || !pods.Contains(a.Addr) || !pods.Contains(b.Addr) {
		t.Fatalf("addresses %s and %s, want two of %s", a.Addr, b.Addr, pods)
	}
	serve(t, a.NetNS, a.Addr.String()+":80")
	serve(t, b.NetNS, b.Addr.String()+":80")
	reach := func() {
		t.Helper()
		for _, tc := range []struct{ name, from, to, seen string }{
			{"node to pod", "", a.Addr.String(), "10.42.7.1"},
			{"pod to pod", a.NetNS, b.Addr.String(), a.Addr.String()},
			{"and back", b.NetNS, a.Addr.String(), b.Addr.String()},
		} {
			if seen, err := ask(tc.from, tc.to+":80"); err != nil || seen != tc.seen {
				t.Errorf("%s: seen as %q, %v; want %s", tc.name, seen, err, tc.seen)
			}
		}
	}
	reach()

	again, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := setup(t, again, "a"); got != a {
		t.Errorf("after a restart: %+v, want %+v as before", got, a)
	}
	reach()
	for _, uid := range []string{"a", "b"} {
		if err := again.Teardown(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
		if err := n.Teardown(t.Context(), uid); err != nil {
			t.Errorf("once more: %v", err)
		}
	}
	if left := c.CNI.addresses(t); len(left) > 0 {
		t.Errorf("plugins still keep %v", left)
	}
}

// TestCNIReboot: namespaces do not outlive a reboot, but what plugins have given does. A start asks no plugin, which may hang; a pod
// that is gone gives its address back when it is torn down, one that goes on when it is made anew.
func TestCNIReboot(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	c.CNI = newCNI(t)
	c.CNI.NodeAddress = netip.MustParseAddr("10.43.0.10")
	before := newNetwork(t, c)
	for _, uid := range []string{"gone", "stays", "half"} {
		setup(t, before, uid)
	}
	for _, uid := range []string{"gone", "stays"} {
		if err := before.unpin(uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(before.path("half", addressFile)); err != nil { // As of a setup that was killed.
		t.Fatal(err)
	}

	bins := c.CNI.BinDirs
	asked := filepath.Join(t.TempDir(), "asked")
	c.CNI.BinDirs = []string{filepath.Dir(asked)}
	for _, plugin := range []string{"bridge", "loopback"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(asked), plugin), []byte("#!/bin/sh\ntouch "+asked+"\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(asked); err == nil {
		t.Error("the start asked a plugin")
	}
	if pods, err := n.Pods(t.Context()); err != nil || !slices.Equal(pods, []string{"gone", "half", "stays"}) {
		t.Errorf("pods with something to remove: %q (%v)", pods, err)
	}
	if err := n.Teardown(t.Context(), "gone"); err == nil {
		t.Error("a plugin that fails over a pod is not told of")
	}

	c.CNI.BinDirs = bins
	stays := setup(t, n, "stays")
	for _, uid := range []string{"gone", "half"} {
		if err := n.Teardown(t.Context(), uid); err != nil {
			t.Error(err)
		}
	}
	if left := c.CNI.addresses(t); !slices.Equal(left, []string{stays.Addr.String()}) {
		t.Errorf("plugins keep %v, want %s alone", left, stays.Addr)
	}
	if pods, err := n.Pods(t.Context()); err != nil || !slices.Equal(pods, []string{"stays"}) {
		t.Errorf("in the end there are the pods %q (%v)", pods, err)
	}
	if err := n.Teardown(t.Context(), "stays"); err != nil {
		t.Error(err)
	}
}

// TestCNIWaits: without a configuration no pod is connected, and with one that comes it is.
func TestCNIWaits(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	c.CNI = newCNI(t)
	file := filepath.Join(c.CNI.ConfDir, "10-test.conflist")
	if err := os.Rename(file, file+".later"); err != nil {
		t.Fatal(err)
	}
	c.CNI.NodeAddress = netip.MustParseAddr("10.43.0.10") // The only one there is.
	n := newNetwork(t, c)
	if _, err := n.Setup(t.Context(), Pod{UID: "a", Namespace: "default", Name: "a", Hostname: "a"}); err == nil || !strings.Contains(err.Error(), c.CNI.ConfDir) {
		t.Fatalf("without a configuration: %v, want an error that names its directory", err)
	}
	if host, err := n.Setup(t.Context(), Pod{UID: "h", Hostname: "h", HostNetwork: true}); err != nil || host.Addr.IsValid() {
		t.Fatalf("a pod of the host's network: %+v, %v", host, err)
	}
	if err := n.Teardown(t.Context(), "a"); err != nil {
		t.Errorf("tearing down what no plugin was asked for: %v", err)
	}
	if err := os.Rename(file+".later", file); err != nil {
		t.Fatal(err)
	}
	if got := setup(t, n, "a"); !got.Addr.IsValid() {
		t.Errorf("with a configuration: %+v", got)
	}
}

// hangingPlugin takes its time over the pod "slow": until somebody reads its pipe.
const hangingPlugin = `#!/bin/sh
case "$CNI_COMMAND $CNI_IFNAME $CNI_ARGS" in "ADD eth0 "*K8S_POD_NAME=slow*) echo > %s ;; esac
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}], "ips": [{"address": "10.42.7.5/24", "interface": 0}]}'
`

// TestCNIHangs: while a plugin hangs over one pod, others come and go.
func TestCNIHangs(t *testing.T) {
	if !alone(t) {
		return
	}
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	plugin := fmt.Appendf(nil, hangingPlugin, pipe)
	if err := inOrder(
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, "") },
		func() error { return unix.Mkfifo(pipe, 0o600) },
		func() error { return os.WriteFile(filepath.Join(dir, "hanging"), plugin, 0o755) },
		func() error { return os.WriteFile(filepath.Join(dir, "loopback"), plugin, 0o755) },
		func() error {
			return os.WriteFile(filepath.Join(dir, "10.conflist"), []byte(`{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "hanging"}]}`), 0o644)
		},
	); err != nil {
		t.Fatal(err)
	}
	c := testConfig(t)
	c.CNI = &CNI{ConfDir: dir, BinDirs: []string{dir}, NodeAddress: netip.MustParseAddr("10.43.0.10")}
	n := newNetwork(t, c)
	slow := make(chan error, 1)
	go func() {
		_, err := n.Setup(t.Context(), Pod{UID: "slow", Namespace: "default", Name: "slow", Hostname: "slow"})
		slow <- err
	}()
	began := func() bool { _, err := os.Stat(n.note("slow")); return err == nil }
	for deadline := time.Now().Add(30 * time.Second); !began(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pod's setup does not begin")
		}
	}
	setup(t, n, "quick")
	if pods, err := n.Pods(t.Context()); err != nil || !slices.Equal(pods, []string{"quick", "slow"}) {
		t.Errorf("meanwhile there are the pods %q (%v)", pods, err)
	}
	if err := n.Teardown(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Teardown(impatient, "slow"); !errors.Is(err, context.Canceled) {
		t.Errorf("tearing down what is being set up: %v, want to wait for it", err)
	}
	if _, err := os.ReadFile(pipe); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

// TestCNIUnseenBridges: a kernel that hides bridged packets from the rules is told of once, and pods are connected all the same.
func TestCNIUnseenBridges(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	c.CNI = newCNI(t)
	c.CNI.NodeAddress = netip.MustParseAddr("10.43.0.10")
	var log bytes.Buffer
	n := newNetwork(t, c)
	n.log = slog.New(slog.NewTextHandler(&log, nil))
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		t.Skipf("needs br_netfilter, to hide it: %v", err)
	}
	if err := unix.Mount("/proc/sys/debug", "/proc/sys/net/bridge", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	setup(t, n, "a")
	setup(t, n, "b")
	if strings.Count(log.String(), "modprobe br_netfilter") != 1 {
		t.Errorf("what is told of it: %q", log.String())
	}
}
