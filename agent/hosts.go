package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// podFiles writes the files of /etc that a pod's containers share, and returns them as mounts. They are rewritten in
// place, because a bind mount holds on to the file and not to its name.
func (a *Agent) podFiles(pod *v1.Pod, ips []string) ([]Mount, error) {
	nodeHosts := []byte{}
	if pod.Spec.HostNetwork {
		var err error
		if nodeHosts, err = os.ReadFile("/etc/hosts"); err != nil {
			return nil, fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	conf, err := os.ReadFile(a.ResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read the node's resolver configuration: %w", err)
	}
	hostname := podHostname(pod, a.NodeName)
	kernelName, err := kernelHostname(pod, a.NodeName, a.ClusterDomain)
	if err != nil {
		return nil, err
	}
	var mounts []Mount
	for _, f := range []struct{ name, content string }{
		{"hosts", hostsFile(pod, ips, hostname, a.ClusterDomain, string(nodeHosts))},
		{"hostname", kernelName + "\n"},
		{"resolv.conf", resolvConf(pod, a.ClusterDNS, a.ClusterDomain, string(conf))},
	} {
		path := filepath.Join(a.dirs.pod(pod.UID), f.name)
		if err := writeInPlace(path, []byte(f.content)); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		mounts = append(mounts, Mount{Source: path, Target: "/etc/" + f.name})
	}
	return mounts, nil
}

// writeInPlace writes a file that containers may have open: whole or, where there is no room, not at all.
func writeInPlace(path string, content []byte) error {
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(content) > 0 {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(content)))
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // Not every file system can.
			return err
		}
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// podHostname is the pod's own name for itself, at most 63 characters of it.
func podHostname(pod *v1.Pod, nodeName string) string {
	name := pod.Name
	switch {
	case pod.Spec.HostnameOverride != nil:
		return *pod.Spec.HostnameOverride
	case pod.Spec.HostNetwork:
		return nodeName
	case pod.Spec.Hostname != "":
		name = pod.Spec.Hostname
	}
	return strings.TrimRight(name[:min(63, len(name))], "-.")
}

// podDomain is what follows the pod's name for itself in its full name, "" where it has none: a name that stands for all others is whole.
func podDomain(pod *v1.Pod, cluster string) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	return fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, cluster)
}

// maxHostname is what the kernel takes.
const maxHostname = 64

// kernelHostname is what gethostname returns in the pod: the name, or all of it where setHostnameAsFQDN asks for that.
func kernelHostname(pod *v1.Pod, nodeName, domain string) (string, error) {
	name := podHostname(pod, nodeName)
	within := podDomain(pod, domain)
	if !isTrue(pod.Spec.SetHostnameAsFQDN) || within == "" || pod.Spec.HostNetwork {
		return name, nil
	}
	full := name + "." + within
	if len(full) > maxHostname {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			full, maxHostname, len(full))
	}
	return full, nil
}

// hostsFile is the content of a pod's /etc/hosts. A pod on the host's network sees the node's file.
func hostsFile(pod *v1.Pod, ips []string, hostname, domain, nodeHosts string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(nodeHosts)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n")
		b.WriteString("127.0.0.1\tlocalhost\n")
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::0\tip6-localnet\n")
		b.WriteString("fe00::0\tip6-mcastprefix\n")
		b.WriteString("fe00::1\tip6-allnodes\n")
		b.WriteString("fe00::2\tip6-allrouters\n")
		names := hostname
		if within := podDomain(pod, domain); within != "" {
			names = fmt.Sprintf("%s.%s\t%s", hostname, within, hostname)
		}
		for _, ip := range ips {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.String()
}

// Limits of a resolver's configuration, from the API's validation.
const (
	maxNameservers = 3
	maxSearches    = 32
)

// resolver is what a resolv.conf says.
type resolver struct{ nameservers, searches, options []string }

// resolvConf is the content of a pod's /etc/resolv.conf, made of its dnsPolicy, its dnsConfig and the node's own file.
func resolvConf(pod *v1.Pod, clusterDNS []string, domain, nodeConf string) string {
	node := parseResolvConf(nodeConf)
	policy := pod.Spec.DNSPolicy
	if policy == "" {
		policy = v1.DNSClusterFirst
	}
	if len(clusterDNS) == 0 && policy != v1.DNSNone || policy == v1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = v1.DNSDefault
	}
	var r resolver
	switch policy {
	case v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet:
		r.nameservers = slices.Clone(clusterDNS)
		r.searches = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, node.searches...)
		r.options = []string{"ndots:5"}
	case v1.DNSDefault:
		r = node
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.nameservers = append(r.nameservers, c.Nameservers...)
		r.searches = append(r.searches, c.Searches...)
		for _, o := range c.Options {
			r.setOption(o)
		}
	}
	return r.String()
}

// setOption adds an option in place of one with the same name.
func (r *resolver) setOption(o v1.PodDNSConfigOption) {
	r.options = slices.DeleteFunc(slices.Clone(r.options), func(had string) bool {
		name, _, _ := strings.Cut(had, ":")
		return name == o.Name
	})
	if o.Value != nil && *o.Value != "" {
		r.options = append(r.options, o.Name+":"+*o.Value)
	} else {
		r.options = append(r.options, o.Name)
	}
}

func (r resolver) String() string {
	var b strings.Builder
	if searches := firstFew(r.searches, maxSearches); len(searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(searches, " "))
	}
	for _, server := range firstFew(r.nameservers, maxNameservers) {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

// firstFew drops what is there twice, then all beyond n.
func firstFew(list []string, n int) []string {
	var few []string
	for _, s := range list {
		if len(few) < n && !slices.Contains(few, s) {
			few = append(few, s)
		}
	}
	return few
}

// parseResolvConf reads the node's file. A nameserver on the node's loopback is left out: a pod has a loopback of its own.
func parseResolvConf(conf string) resolver {
	var r resolver
	for line := range strings.Lines(conf) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(fields[1]); err == nil && !ip.IsLoopback() {
				r.nameservers = append(r.nameservers, fields[1])
			}
		case "search":
			r.searches = fields[1:]
		case "options":
			r.options = fields[1:]
		}
	}
	return r
}
