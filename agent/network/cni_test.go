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
	"reflect"
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
	return &CNI{ConfDir: dir, BinDirs: []string{bin}, NodeAddresses: []netip.Addr{netip.MustParseAddr("10.42.7.1")}}
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
	if pods := netip.MustParsePrefix("10.42.7.0/24"); a.Addrs[0] == b.Addrs[0] || !pods.Contains(a.Addrs[0]) || !pods.Contains(b.Addrs[0]) {
		t.Fatalf("addresses %s and %s, want two of %s", a.Addrs, b.Addrs, pods)
	}
	serve(t, a.NetNS, a.Addrs[0].String()+":80")
	serve(t, b.NetNS, b.Addrs[0].String()+":80")
	reach := func() {
		t.Helper()
		for _, tc := range []struct{ name, from, to, seen string }{
			{"node to pod", "", a.Addrs[0].String(), "10.42.7.1"},
			{"pod to pod", a.NetNS, b.Addrs[0].String(), a.Addrs[0].String()},
			{"and back", b.NetNS, a.Addrs[0].String(), b.Addrs[0].String()},
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
	if got := setup(t, again, "a"); !reflect.DeepEqual(got, a) {
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
	c.CNI.NodeAddresses = c.LocalAddresses
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
	if left := c.CNI.addresses(t); !slices.Equal(left, []string{stays.Addrs[0].String()}) {
		t.Errorf("plugins keep %v, want %s alone", left, stays.Addrs)
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
	c.CNI.NodeAddresses = c.LocalAddresses // The only one there is.
	n := newNetwork(t, c)
	if _, err := n.Setup(t.Context(), Pod{UID: "a", Namespace: "default", Name: "a", Hostname: "a"}); err == nil || !strings.Contains(err.Error(), c.CNI.ConfDir) {
		t.Fatalf("without a configuration: %v, want an error that names its directory", err)
	}
	if host, err := n.Setup(t.Context(), Pod{UID: "h", Hostname: "h", HostNetwork: true}); err != nil || len(host.Addrs) > 0 {
		t.Fatalf("a pod of the host's network: %+v, %v", host, err)
	}
	if err := n.Teardown(t.Context(), "a"); err != nil {
		t.Errorf("tearing down what no plugin was asked for: %v", err)
	}
	if err := os.Rename(file+".later", file); err != nil {
		t.Fatal(err)
	}
	if got := setup(t, n, "a"); len(got.Addrs) == 0 {
		t.Errorf("with a configuration: %+v", got)
	}
}

// tellingPlugin notes what it is asked, and gives addresses of both families, more than a pod has to the API.
const tellingPlugin = `#!/bin/sh
[ $CNI_IFNAME = eth0 ] && cat >> %s.$CNI_COMMAND
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}], "ips": [
	{"address": "fd00:42:7::5/64", "interface": 0}, {"address": "10.42.7.5/24", "interface": 0}, {"address": "10.42.8.5/24", "interface": 0}]}'
exit 0
`

// TestCNIFamilies: a pod has one address of each family that plugins gave it, in the cluster's order; and those plugins hear of host ports
// that ask for them, also when the pod goes.
func TestCNIFamilies(t *testing.T) {
	if !alone(t) {
		return
	}
	dir := t.TempDir()
	told := filepath.Join(dir, "told")
	plugin := fmt.Appendf(nil, tellingPlugin, told)
	if err := inOrder(
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, "") },
		func() error { return os.WriteFile(filepath.Join(dir, "telling"), plugin, 0o755) },
		func() error { return os.WriteFile(filepath.Join(dir, "loopback"), plugin, 0o755) },
		func() error {
			return os.WriteFile(filepath.Join(dir, "10.conflist"), []byte(`{"cniVersion": "1.0.0", "name": "test", "plugins": [
				{"type": "telling"}, {"type": "telling", "capabilities": {"portMappings": true}}]}`), 0o644)
		},
	); err != nil {
		t.Fatal(err)
	}
	c := testConfig(t)
	c.CNI = &CNI{ConfDir: dir, BinDirs: []string{dir}, NodeAddresses: c.LocalAddresses}
	n := newNetwork(t, c)
	pod := Pod{UID: "a", Namespace: "default", Name: "a", Hostname: "a", HostPorts: []HostPort{{Host: 8080, Container: 80, Protocol: "TCP"},
		{Host: 53, Container: 5353, Protocol: "UDP", HostIP: "192.0.2.7"}}}
	got, err := n.Setup(t.Context(), pod)
	if err != nil || joined(got.Addrs) != "10.42.7.5,fd00:42:7::5" {
		t.Errorf("the pod has %s (%v)", got.Addrs, err)
	}
	again, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Setup(t.Context(), pod); err != nil || joined(got.Addrs) != "10.42.7.5,fd00:42:7::5" {
		t.Errorf("after a restart the pod has %s (%v)", got.Addrs, err)
	}
	if err := again.Teardown(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	const ports = `"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""},{"HostPort":53,"ContainerPort":5353,"Protocol":"udp","HostIP":"192.0.2.7"}]`
	for _, command := range []string{"ADD", "DEL"} {
		text, err := os.ReadFile(told + "." + command)
		asked, withPorts := strings.Count(string(text), `"type":"telling"`), strings.Count(strings.ToLower(string(text)), strings.ToLower(ports))
		if err != nil || asked != 2 || withPorts != 1 {
			t.Errorf("%s: of %d plugins %d heard of the ports (%v); want one of two:\n%s", command, asked, withPorts, err, text)
		}
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
	c.CNI = &CNI{ConfDir: dir, BinDirs: []string{dir}, NodeAddresses: c.LocalAddresses}
	n := newNetwork(t, c)
	slow := make(chan error, 1)
	go func() {
		_, err := n.Setup(t.Context(), Pod{UID: "slow", Namespace: "default", Name: "slow", Hostname: "slow"})
		slow <- err
	}()
	began := func() bool { _, err := os.Stat(n.note("slow")); return err == nil }
	for deadline := time.Now().Add(time.Minute); !began(); time.Sleep(time.Millisecond) {
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
	c.CNI.NodeAddresses = c.LocalAddresses
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
