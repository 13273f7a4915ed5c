package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func checkCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell what this machine lacks to be a node, each with the command that mends it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := &settings{options: o}
			if err := s.parseRanges(); err != nil {
				return err
			}
			lacking := 0
			for _, c := range checks {
				if err := c.look(s); err != nil {
					lacking++
					if b, ok := errors.AsType[*blocked](err); ok {
						c.mend = b.mend
					}
					fmt.Fprintf(cmd.OutOrStdout(), "lacks  %s: %v\n       %s\n", c.what, err, c.mend)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "ok     %s\n", c.what)
			}
			if lacking > 0 {
				return fmt.Errorf("this machine lacks %d of %d things", lacking, len(checks))
			}
			return nil
		},
	}
	o.rangeFlags(cmd.Flags())
	return cmd
}

// check is one thing that a node needs.
type check struct {
	what string
	look func(*settings) error
	mend string
}

var checks = []check{
	{"root", lookRoot, "run it with sudo"},
	{"containerd", onPath("containerd"), "apt-get install containerd"},
	{"containerd's shim for runc", onPath("containerd-shim-runc-v2"), "apt-get install containerd"},
	{"runc", onPath("runc"), "apt-get install runc"},
	{"nftables in the kernel", lookNftables, "modprobe nf_tables nft_chain_nat nft_reject_inet, or a kernel with CONFIG_NF_TABLES"},
	{"overlay file systems in the kernel", lookOverlay, "modprobe overlay"},
	{"the cgroup controllers cpu and memory", lookCgroups, "add cgroup_enable=memory to the kernel's command line and reboot"},
	{"IPv6, if the cluster has ranges of it", lookIPv6, "leave the ranges of IPv6 out of --cluster-cidr and --service-cidr"},
	{"a route to the pod network that nobody else has", lookRoutes, "choose other ranges with --cluster-cidr and --service-cidr"},
	{"a firewall that lets pods through", lookFirewalls, "run it as root"},
}

func lookRoot(*settings) error {
	if os.Getuid() != 0 {
		return errors.New("a node runs as root, and some of these checks need it too")
	}
	return nil
}

func onPath(program string) func(*settings) error {
	return func(*settings) error {
		_, err := exec.LookPath(program)
		if err != nil {
			return errors.New("it is not on PATH")
		}
		return nil
	}
}

func lookNftables(*settings) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

func lookOverlay(*settings) error {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), "\toverlay\n") {
		return errors.New("/proc/filesystems does not list it")
	}
	return nil
}

// lookCgroups finds the controllers in either version of cgroups.
func lookCgroups(*settings) error {
	v2, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // Not there with version 1.
	var missing []string
	for _, controller := range []string{"cpu", "memory"} {
		_, err := os.Stat("/sys/fs/cgroup/" + controller)
		if err != nil && !strings.Contains(" "+strings.TrimSpace(string(v2))+" ", " "+controller+" ") {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

// lookIPv6 finds what keeps packets of IPv6 from the node's own links. Forwarding is not among it: a server switches that on.
func lookIPv6(s *settings) error {
	if !s.clusterRanges.v6().IsValid() {
		return nil
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return &blocked{"the kernel has none", "boot without ipv6.disable=1 on the kernel's command line"}
	}
	for _, name := range []string{"all", "default", "lo"} {
		text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err == nil && strings.TrimSpace(string(text)) != "0" {
			parameter := "net.ipv6.conf." + name + ".disable_ipv6"
			return &blocked{parameter + " switches it off", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"}
		}
	}
	return nil
}

// lookRoutes finds routes of others in the cluster's ranges, a VPN's for example.
func lookRoutes(s *settings) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() || r.LinkIndex == 0 || isHost(r.Dst) { // A pod of ours, perhaps.
			continue
		}
		to, _ := netip.AddrFromSlice(r.Dst.IP)
		for _, ours := range slices.Concat(s.clusterRanges, s.serviceRanges) {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err == nil && !strings.HasPrefix(link.Attrs().Name, "skiff") && r.Type == unix.RTN_UNICAST && ours.Contains(to.Unmap()) {
				return fmt.Errorf("%s goes to %s", r.Dst, link.Attrs().Name)
			}
		}
	}
	return nil
}

func isHost(n *net.IPNet) bool {
	ones, bits := n.Mask.Size()
	return ones == bits
}
