package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"skiff/control"
	"skiff/dns"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// names says how the DNS server answers, where there is a choice.
type names struct {
	forwardTexts []string
	pods         string
	autopath     bool

	forwards []dns.Forward
}

func (o *names) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.forwardTexts, "dns-forward", nil, "ZONE=SERVER,...: whom to ask about the names of a zone, like corp.example=10.0.0.1 or .=tls://192.0.2.1#dns.example; may be repeated (default: the host's resolvers)")
	f.StringVar(&o.pods, "dns-pods", string(dns.PodsInsecure), "which addresses have a name like 10-42-0-7.NAMESPACE.pod.cluster.local: all (insecure), those of pods (verified), none (disabled)")
	f.BoolVar(&o.autopath, "dns-autopath", false, "answer the first try of a pod's search path with what the last would find: one question instead of four for an outside name, but names exist that do not")
}

func (o *names) parse() error {
	for _, text := range o.forwardTexts {
		forward, err := dns.ParseForward(text)
		if err != nil {
			return fmt.Errorf("--dns-forward %w", err)
		}
		o.forwards = append(o.forwards, forward)
	}
	switch dns.PodNames(o.pods) {
	case dns.PodsInsecure, dns.PodsVerified, dns.PodsDisabled:
		return nil
	}
	return fmt.Errorf("--dns-pods %s: it must be insecure, verified or disabled", o.pods)
}

func (s *settings) dnsConfig() dns.Config {
	return dns.Config{
		Addresses: s.dns, Port: 53, Metrics: dnsMetricsPort, Domain: s.clusterDomain,
		ClusterCIDR: s.clusterRanges, ServiceCIDR: s.serviceRanges,
		Pods: dns.PodNames(s.pods), Autopath: s.autopath, Forwards: s.forwards, Socket: s.dnsSocket(),
	}
}

// dnsMetricsPort is where Prometheus looks for the metrics of a cluster's DNS.
const dnsMetricsPort = 9153

func dnsCommand() *cobra.Command {
	var s settings
	var addresses string
	flags := func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&s.run, "run-dir", "/run/skiff", "where the socket for \"skiff dns log\" and \"dump\" is made")
		cmd.Flags().StringVar(&addresses, "address", "10.43.0.10", "address to answer on; or two, of different families")
		cmd.Flags().StringVar(&s.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
		cmd.Flags().StringVar(&s.clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods: one range, or two of different families")
		cmd.Flags().StringVar(&s.serviceCIDR, "service-cidr", "10.43.0.0/16", "addresses of Services: one range, or two of different families")
		s.names.flags(cmd.Flags())
	}
	cmd := alone("dns", "Run the DNS server of this machine alone, or look into one that runs", flags, func(_ kubernetes.Interface, factory informers.SharedInformerFactory) (component, error) {
		var err error
		for _, text := range strings.Split(addresses, ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("--address %s: it must be an IP address", text)
			}
			s.dns = append(s.dns, addr)
		}
		if s.clusterRanges, err = clusterFlag.parse(s.clusterCIDR); err != nil {
			return nil, err
		}
		if s.serviceRanges, err = serviceFlag.parse(s.serviceCIDR); err != nil {
			return nil, err
		}
		if err := s.names.parse(); err != nil {
			return nil, err
		}
		return dns.New(s.dnsConfig(), factory)
	})
	cmd.AddCommand(dnsLogCommand(), dnsShowCommand("dump", "Print every name of the cluster with its records, the servers that outside names are asked of, and the answers kept"),
		dnsShowCommand("metrics", "Print the counters, in the format of Prometheus"))
	return cmd
}

// dnsShowCommand prints what the DNS server of a running node tells.
func dnsShowCommand(what, short string) *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use: what, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.askDNS(cmd.Context(), "/"+what, cmd.OutOrStdout())
		},
	}
	d.flags(cmd)
	return cmd
}

func dnsLogCommand() *cobra.Command {
	var d dirs
	var pod, namespace string
	var every uint32
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print the answers of this node's DNS server as they are given, until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"every": {strconv.FormatUint(uint64(max(every, 1)), 10)}}
			if pod != "" {
				addresses, err := d.podAddresses(cmd.Context(), namespace, pod)
				if err != nil {
					return err
				}
				query["client"] = addresses
			}
			return d.askDNS(cmd.Context(), "/log?"+query.Encode(), cmd.OutOrStdout())
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&pod, "pod", "", "only answers to this pod")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "the pod's namespace")
	cmd.Flags().Uint32Var(&every, "every", 1, "print one of so many answers")
	return cmd
}

// podAddresses are the addresses by which the DNS server knows a pod.
func (d dirs) podAddresses(ctx context.Context, namespace, name string) ([]string, error) {
	if err := d.absolute(); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", d.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("there is no cluster in %s: start one with `skiff up`", d.data)
	}
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if pod.Spec.HostNetwork {
		return nil, fmt.Errorf("pod %s is in the host's network: its questions cannot be told from others of the node", name)
	}
	var addresses []string
	for _, ip := range pod.Status.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("pod %s has no address yet", name)
	}
	return addresses, nil
}

// askDNS copies what the DNS server of a running node answers on its socket.
func (d dirs) askDNS(ctx context.Context, path string, out io.Writer) error {
	if err := d.absolute(); err != nil {
		return err
	}
	return lookInto(ctx, "DNS server", d.dnsSocket(), path, out)
}

// lookInto copies what a component of a running node answers on its socket, until ctx ends.
func lookInto(ctx context.Context, component, socket, path string, out io.Writer) error {
	err := control.Get(ctx, socket, path, out)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, control.ErrNobody):
		return fmt.Errorf("no %s answers at %s: start the node with `skiff up`", component, socket)
	}
	return err
}
