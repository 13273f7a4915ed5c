package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
)

// testProxyAlone runs a proxy by itself, on a machine that is no node and has nothing but a kubeconfig: there, too, the API server
// answers at the address of the Service kubernetes.
func testProxyAlone(t *testing.T, s *shell) {
	route := "ip -n " + s.outside + " route %s 10.43.0.0/16 via " + nodeAddr
	host(t, strings.Replace(route, "%s", "add", 1))
	t.Cleanup(func() { host(t, strings.Replace(route, "%s", "del", 1)) })
	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(string(config), "127.0.0.1", nodeAddr)), 0o600); err != nil {
		t.Fatal(err)
	}
	const kubernetes = "https://10.43.0.1"
	if r := s.get(s.outside, kubernetes, "/readyz"); r.status == 0 {
		t.Fatalf("without a proxy: %v", r)
	}
	cmd := in(s.outside, repository("bin/skiff"), "proxy", "--kubeconfig", kubeconfig, "--node-name", "alone", "--socket", kubeconfig+".sock")
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the proxy: %v\n%s", err, log.String())
		}
		removeTable(t, s.outside)
	})
	s.untilAnswers(kubernetes, "/readyz", "ok")
	s.says(repository("bin/skiff")+" proxy dump --socket "+kubeconfig+".sock | grep -c '# default/kubernetes$'", `[1-9]\d*`)
}

// removeTable removes the proxy's table from a network namespace.
func removeTable(t *testing.T, name string) {
	t.Helper()
	ns, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
	conn.DelTable(&nftables.Table{Name: "skiff", Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		t.Errorf("remove the table of the proxy: %v", err)
	}
}
