package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/google/nftables"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Tell what this machine lacks to be a node, each with the command that mends it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lacking := 0
			for _, c := range checks {
				if err := c.look(); err != nil {
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
}

// check is one thing that a node needs.
type check struct {
	what string
	look func() error
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
	{"a route to the pod network that nobody else has", lookRoutes, "choose other ranges with --cluster-cidr and --service-cidr"},
	{"a firewall that lets pods through", lookFirewalls, "run it as root"},
}

// The ranges that are looked at: those of a server without other flags.
const (
	defaultPods     = "10.42.0.0/16"
	defaultServices = "10.43.0.0/16"
)

func lookRoot() error {
	if os.Getuid() != 0 {
		return errors.New("a node runs as root, and some of these checks need it too")
	}
	return nil
}

func onPath(program string) func() error {
	return func() error {
		_, err := exec.LookPath(program)
		if err != nil {
			return errors.New("it is not on PATH")
		}
		return nil
	}
}

func lookNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

func lookOverlay() error {
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
func lookCgroups() error {
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

// lookRoutes finds routes of others in the default ranges, a VPN's for example.
func lookRoutes() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() || r.LinkIndex == 0 || isHost(r.Dst) { // A pod of ours, perhaps.
			continue
		}
		for _, text := range []string{defaultPods, defaultServices} {
			ours, _ := netlink.ParseIPNet(text)
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err == nil && !strings.HasPrefix(link.Attrs().Name, "skiff") && ours.Contains(r.Dst.IP) {
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
