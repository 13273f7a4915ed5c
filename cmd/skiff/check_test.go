package main

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// What switches IPv6 off is named, with what switches it on, if the cluster has ranges of it.
func TestCheckOfIPv6(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // And not unlocked: the thread ends with its namespace.
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	look := func(cluster, service string) error {
		s := &settings{options: options{clusterCIDR: cluster, serviceCIDR: service}}
		if err := s.parseRanges(); err != nil {
			t.Fatal(err)
		}
		return lookIPv6(s)
	}
	both := func() error { return look("10.42.0.0/16,fd00:42::/56", "10.43.0.0/16,fd00:43::/112") }
	set := func(value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte(value), 0o644); err != nil {
			t.Skipf("needs IPv6: %v", err)
		}
	}
	set("0")
	if err := both(); err != nil {
		t.Errorf("where it is on: %v", err)
	}
	set("1")
	if err := both(); err == nil || mendOf(err) != "sysctl -w net.ipv6.conf.all.disable_ipv6=0" {
		t.Errorf("where it is off: %v, mended by %q", err, mendOf(err))
	}
	if err := look("10.42.0.0/16", "10.43.0.0/16"); err != nil {
		t.Errorf("a cluster that has none: %v", err)
	}
}
