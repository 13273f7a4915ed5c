package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// An address that nobody can reach is refused in one line that names the flag.
func TestAdvertiseAddress(t *testing.T) {
	for address, why := range map[string]string{
		"10.0.0.7": "", "auto": "",
		"127.0.0.1": "nobody but this machine", "127.8.9.1": "nobody but this machine", "0.0.0.0": "nobody but this machine",
		"224.0.0.1": "nobody but this machine", "169.254.1.1": "nobody but this machine", "255.255.255.255": "nobody but this machine",
		"::1": "must be an IPv4 address", "fd00::1": "must be an IPv4 address", "here": "must be an IPv4 address",
		"10.43.0.7": "one of the Services' addresses",
	} {
		s := settings{options: options{advertise: address, clusterCIDR: "10.42.0.0/16", serviceCIDR: "10.43.0.0/16", clusterDNS: "10.43.0.10"}}
		if err := s.parseRanges(); err != nil {
			t.Fatal(err)
		}
		err := s.parseAddress()
		switch {
		case why == "" && err != nil:
			t.Errorf("%s: error %v", address, err)
		case why != "" && (err == nil || !strings.HasPrefix(err.Error(), "--advertise-address "+address+": ") || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: error %v, want one line that names the flag and has %q", address, err, why)
		}
	}
}

// Of one data directory there is one server, whatever their run directories and wherever their state is.
func TestDataDirectoryIsLocked(t *testing.T) {
	d := dirs{data: t.TempDir(), run: filepath.Join(t.TempDir(), "one")}
	first, err := settings{options: options{dirs: d}}.lockData()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.inUse(); err == nil {
		t.Error("`skiff down --purge` would remove the directory of a server that runs")
	}
	d.run = filepath.Join(t.TempDir(), "two")
	if _, err := (settings{options: options{dirs: d}}).lockData(); err == nil || !strings.Contains(err.Error(), "data directory "+d.data+" is in use by another skiff server") {
		t.Errorf("a second server: error %v", err)
	}
	first.Close()
	second, err := settings{options: options{dirs: d}}.lockData()
	if err != nil {
		t.Fatalf("when the first is gone: %v", err)
	}
	second.Close()
	if err := d.inUse(); err != nil {
		t.Errorf("when both are gone: %v", err)
	}
}
