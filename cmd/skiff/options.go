package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"skiff/apiserver"

	"github.com/spf13/cobra"
	apivalidation "k8s.io/apimachinery/pkg/util/validation"
)

// kubernetesVersion is the version of Kubernetes whose API skiff serves.
const kubernetesVersion = "v1.37.2"

// dirs are where a cluster lives. Everything that concerns one finds it by these two.
type dirs struct {
	data string // What survives a reboot.
	run  string // What does not.
}

func (d *dirs) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.data, "data-dir", "/var/lib/skiff", "where the cluster's state is kept")
	cmd.Flags().StringVar(&d.run, "run-dir", defaultRunDir, "where sockets, namespaces and the process ID are kept; need not survive a reboot")
}

// absolute makes the paths what the kernel calls them, links resolved: they are looked up among its mounts.
func (d *dirs) absolute() (err error) {
	if d.data, err = resolve(d.data); err != nil {
		return err
	}
	d.run, err = resolve(d.run)
	return err
}

// resolve follows the links in a path whose last part need not be there yet.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(parent, filepath.Base(path)), nil
	}
	return path, nil
}

func (d dirs) kubeconfig() string       { return filepath.Join(d.data, "admin.kubeconfig") }
func (d dirs) state() string            { return filepath.Join(d.data, "state.db") }
func (d dirs) images() string           { return filepath.Join(d.data, "images") }
func (d dirs) pidFile() string          { return filepath.Join(d.run, "skiff.pid") }
func (d dirs) log() string              { return filepath.Join(d.data, "server.log") }
func (d dirs) dnsSocket() string        { return filepath.Join(d.run, "dns.sock") }
func (d dirs) containerdSocket() string { return filepath.Join(d.run, "containerd", "containerd.sock") }

// cgroupRoot is the parent of the pods' cgroups. Each server on a machine has its own: shares are told out below it.
func (d dirs) cgroupRoot() string {
	if d.run == defaultRunDir {
		return "/skiff"
	}
	return fmt.Sprintf("/skiff-%x", sha256.Sum256([]byte(d.run)))[:len("/skiff-")+8]
}

// defaultRunDir is where what need not survive a reboot is kept, unless somebody says otherwise.
const defaultRunDir = "/run/skiff"

// options are the flags of `skiff server`.
type options struct {
	dirs
	storage
	names
	reserve
	nodeName      string
	bindAddress   string
	port          uint16
	advertise     string
	kubeconfigOut string
	clusterCIDR   string
	serviceCIDR   string
	clusterDNS    string
	clusterDomain string
	nodePorts     string
	containerd    string
	cniConfDir    string
	cniBinDirs    []string
	noAgent       bool
	maxBackoff    time.Duration
	racing        bool
	logLevel      string
}

func (o *options) flags(cmd *cobra.Command) {
	o.dirs.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.nodeName, "node-name", "", "name of this machine's Node (default: the host name)")
	f.StringVar(&o.bindAddress, "bind-address", "0.0.0.0", "address that the API listens on")
	f.Uint16Var(&o.port, "port", 6443, "port that the API listens on")
	f.StringVar(&o.advertise, "advertise-address", "auto", "address at which others reach this machine; auto: that of the default route")
	f.StringVar(&o.kubeconfigOut, "kubeconfig-out", "", "file for the administrator's kubeconfig (default DATA/admin.kubeconfig)")
	o.rangeFlags(f)
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	f.StringVar(&o.nodePorts, "service-node-port-range", "30000-32767", "ports for Services of type NodePort")
	f.StringVar(&o.cniConfDir, "cni-conf-dir", "", "directory of a CNI configuration, whose plugins connect pods (default: skiff does)")
	f.StringSliceVar(&o.cniBinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni"}, "directories of the CNI plugins")
	f.StringVar(&o.containerd, "containerd", "", "socket of a containerd that runs already (default: start a private one)")
	f.BoolVar(&o.noAgent, "no-agent", false, "run the control plane only: this machine is no node")
	o.names.flags(f)
	o.reserve.flags(f)
	f.BoolVar(&o.racing, "racing-stop", false, "stop pods as Kubernetes does, while requests may still come: what `make bench-rollout` compares with")
	_ = f.MarkHidden("racing-stop") // It fails for flags that are not there.
	f.DurationVar(&o.maxBackoff, "max-restart-backoff", 5*time.Minute, "how long at most a container that failed again and again waits for its restart: a second at least")
	o.storage.flags(f)
	f.StringVar(&o.logLevel, "log-level", "info", "how much to log: debug, info, warn or error")
}

// settings are options, understood.
type settings struct {
	options
	clusterRanges, serviceRanges ranges
	dns                          []netip.Addr // Of the cluster's DNS, one of each of serviceRanges.
	ports                        apiserver.PortRange
	address                      netip.Addr            // Where others reach the API. Of the first family of Services.
	addresses                    []netip.Addr          // Where others reach this machine: one a family that pods have, in that order, as far as it has one.
	earlier                      []netip.Addr          // What it went by before, and still has.
	hadRoute                     struct{ v4, v6 bool } // Whether the machine has ever had a default route.
}

func (o options) parse() (settings, error) {
	s := settings{options: o}
	if err := s.absolute(); err != nil {
		return s, err
	}
	if s.kubeconfigOut == "" {
		s.kubeconfigOut = s.kubeconfig()
	}
	for _, parse := range []func() error{s.parseLog, s.parseName, s.parseRanges, s.parsePorts, s.names.parse, s.parseAddress, s.reserve.parse, s.mayRun} {
		if err := parse(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *settings) mayRun() error {
	if s.maxBackoff < time.Second {
		return fmt.Errorf("--max-restart-backoff %s: it must be a second at least", s.maxBackoff)
	}
	if os.Getuid() != 0 && !s.noAgent {
		return errors.New("a node needs root: run it with sudo, or with --no-agent for the control plane alone")
	}
	return nil
}

func (s *settings) parseLog() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return fmt.Errorf("--log-level %s: it must be debug, info, warn or error", s.logLevel)
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	return nil
}

func (s *settings) parseName() error {
	if s.nodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w; name the node with --node-name", err)
		}
		s.nodeName = strings.ToLower(name)
	}
	if why := apivalidation.IsDNS1123Subdomain(s.nodeName); len(why) > 0 {
		return fmt.Errorf("--node-name %s: %s", s.nodeName, why[0])
	}
	return nil
}

func (s *settings) parsePorts() error {
	first, last, ok := strings.Cut(s.nodePorts, "-")
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if !ok || err1 != nil || err2 != nil || from == 0 || from > to {
		return fmt.Errorf("--service-node-port-range %s: it must be two ports, like 30000-32767", s.nodePorts)
	}
	s.ports = apiserver.PortRange{First: uint16(from), Last: uint16(to)}
	return nil
}
