package main

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirewalls holds what is said of rules that other programs leave in the kernel, and that what is said helps.
func TestFirewalls(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs root and the nft program")
	}
	both := &settings{options: options{clusterCIDR: "10.42.0.0/16,fd00:42::/56", serviceCIDR: "10.43.0.0/16,fd00:43::/112"}}
	if err := both.parseRanges(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		rules string
		rule  string // Part of what is said, or nothing where nothing is blocked.
		mend  string
		then  string // What the command does, in nft's words.
	}{
		{"none", "", "", "", ""},
		{"a host that accepts", "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }", "", "", ""},
		{"Docker", "table ip filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }",
			"Docker has set the policy of the chain FORWARD of iptables to DROP",
			"iptables -I DOCKER-USER -s 10.42.0.0/16 -j ACCEPT && iptables -I DOCKER-USER -d 10.42.0.0/16 -j ACCEPT",
			"insert rule ip filter DOCKER-USER ip saddr 10.42.0.0/16 accept"},
		{"ufw", "table ip filter { chain ufw-user-forward { }; chain INPUT { type filter hook input priority 0; policy drop; }; chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
			"ufw drops what no rule lets through",
			"ufw allow from 10.42.0.0/16 && ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16",
			"insert rule ip filter ufw-user-forward ip saddr 10.42.0.0/16 accept"},
		{"firewalld", "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; reject with icmpx admin-prohibited; }; }",
			"firewalld rejects",
			"firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 --add-source=10.43.0.0/16 && firewall-cmd --reload",
			"insert rule inet firewalld filter_FORWARD ip saddr 10.42.0.0/16 accept"},
		{"rules of one's own", "table inet mine { chain router { type filter hook forward priority 0; policy drop; }; }",
			"table inet mine, chain router drops",
			"nft insert rule inet mine router ip saddr 10.42.0.0/16 accept && nft insert rule inet mine router ip daddr 10.42.0.0/16 accept",
			"insert rule inet mine router ip daddr 10.42.0.0/16 accept"},
		{"Docker, by IPv6", "table ip6 filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }",
			"Docker has set the policy of the chain FORWARD of ip6tables to DROP",
			"ip6tables -I DOCKER-USER -s fd00:42::/56 -j ACCEPT && ip6tables -I DOCKER-USER -d fd00:42::/56 -j ACCEPT",
			"insert rule ip6 filter DOCKER-USER ip6 saddr fd00:42::/56 accept"},
		{"rules that let IPv4 through alone", "table inet mine { chain router { type filter hook forward priority 0; policy drop; ip saddr 10.42.0.0/16 accept; }; }",
			"table inet mine, chain router drops",
			"nft insert rule inet mine router ip6 saddr fd00:42::/56 accept && nft insert rule inet mine router ip6 daddr fd00:42::/56 accept",
			"insert rule inet mine router ip6 daddr fd00:42::/56 accept"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runtime.LockOSThread() // And not unlocked: the thread ends with its namespace.
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			load := func(rules string) {
				cmd := exec.Command(nft, "-f", "-")
				cmd.Stdin = strings.NewReader(rules)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("nft: %v\n%s", err, out)
				}
			}
			load(tc.rules)
			err := lookFirewalls(both)
			var b *blocked
			if tc.rule == "" {
				if err != nil {
					t.Fatalf("%v, want nothing", err)
				}
				return
			}
			if !errors.As(err, &b) || !strings.Contains(b.rule, tc.rule) || b.mend != tc.mend {
				t.Fatalf("got %+v\nwant %q and %q", err, tc.rule, tc.mend)
			}
			load(tc.then)
			if err := lookFirewalls(both); err != nil && strings.Contains(err.Error(), tc.rule) && mendOf(err) == tc.mend {
				t.Errorf("when it is mended: %v", err)
			}
		})
	}
}

func mendOf(err error) string {
	if b, ok := errors.AsType[*blocked](err); ok {
		return b.mend
	}
	return ""
}

func TestLegacyFirewall(t *testing.T) {
	const pods, services = "10.42.0.0/16", "10.43.0.0/16"
	const docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n"
	filters := parseLegacy(docker, netip.MustParsePrefix(pods))
	if len(filters) != 2 || filters[0].blocks(pods, services) != nil || filters[1].blocks(pods, services) == nil {
		t.Errorf("%+v, want one that blocks, FORWARD", filters)
	}
	for _, f := range parseLegacy(docker+"-A DOCKER-USER -s 10.42.0.0/16 -j ACCEPT\n", netip.MustParsePrefix(pods)) {
		if b := f.blocks(pods, services); b != nil {
			t.Errorf("%v, though pods are let through", b)
		}
	}
}
