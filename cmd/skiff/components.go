package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"skiff/apiserver"
	"skiff/controller"
	"skiff/pki"
	"skiff/proxy"
	"skiff/scheduler"

	"github.com/spf13/cobra"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Each component is an ordinary Kubernetes client, and runs alone against any API server that conforms.

// component is what all of them are to this program.
type component interface {
	Run(ctx context.Context) error
}

const protobuf = "application/vnd.kubernetes.protobuf"

func newClient(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1                           // The API server looks after itself.
	config.WarningHandler = rest.NoWarnings{} // They are for people.
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + ",application/json"
	return kubernetes.NewForConfig(config)
}

// newPatientClient is for whoever goes on when the API server is away, and wants to know at once when it is back.
func newPatientClient(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return patient{rt} })
	return newClient(config)
}

// alone runs one component with a kubeconfig.
func alone(name, short string, flags func(*cobra.Command), build func(kubernetes.Interface, informers.SharedInformerFactory) (component, error)) *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   name + " --kubeconfig FILE",
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, factory, err := connect(kubeconfig, name)
			if err != nil {
				return err
			}
			c, err := build(client, factory)
			if err != nil {
				return err
			}
			go keepSmall(cmd.Context(), quietAfter, func() {})
			factory.Start(cmd.Context().Done())
			fmt.Fprintf(cmd.OutOrStdout(), "%s runs\n", name)
			err = c.Run(cmd.Context())
			factory.Shutdown()
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file that says which API server, and as whom (required)")
	if flags != nil {
		flags(cmd)
	}
	return cmd
}

func connect(kubeconfig, name string) (kubernetes.Interface, informers.SharedInformerFactory, error) {
	if kubeconfig == "" {
		return nil, nil, fmt.Errorf("%s needs --kubeconfig FILE", name)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("read --kubeconfig %s: %w", kubeconfig, err)
	}
	config.UserAgent = "skiff-" + name
	client, err := newPatientClient(config)
	if err != nil {
		return nil, nil, fmt.Errorf("use --kubeconfig %s: %w", kubeconfig, err)
	}
	return client, informers.NewSharedInformerFactory(client, 0), nil
}

func controllerCommand() *cobra.Command {
	var rootCA, accountKey, clusterCIDR string
	flags := func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&rootCA, "root-ca-file", "", "certificate authority to give to every namespace as kube-root-ca.crt")
		cmd.Flags().StringVar(&accountKey, "service-account-private-key-file", "", "key, on the curve P-256, to sign the tokens with that Secrets of service accounts hold (default: they get none)")
		cmd.Flags().StringVar(&clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods, a part of which each node gets: one range, or two of different families")
	}
	return alone("controller", "Run the controllers alone", flags, func(client kubernetes.Interface, factory informers.SharedInformerFactory) (component, error) {
		clusters, err := clusterFlag.parse(clusterCIDR)
		if err != nil {
			return nil, err
		}
		config := controller.Config{ClusterCIDR: clusters}
		if rootCA != "" {
			if config.RootCA, err = os.ReadFile(rootCA); err != nil {
				return nil, fmt.Errorf("--root-ca-file: %w", err)
			}
		}
		if accountKey != "" {
			key, err := pki.AccountKey(accountKey)
			if err != nil {
				return nil, fmt.Errorf("--service-account-private-key-file: %w", err)
			}
			if config.SecretToken, err = apiserver.SecretTokens(key); err != nil {
				return nil, err
			}
		}
		return controller.New(client, factory, config)
	})
}

func schedulerCommand() *cobra.Command {
	return alone("scheduler", "Run the scheduler alone", nil, func(client kubernetes.Interface, factory informers.SharedInformerFactory) (component, error) {
		return scheduler.New(client, factory, scheduler.Config{})
	})
}

func proxyCommand() *cobra.Command {
	var o options
	var policies bool
	var socket string
	flags := func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&socket, "socket", "", "where \"skiff proxy dump\" and who wants metrics may ask, as root")
		cmd.Flags().BoolVar(&policies, "network-policies", true, "enforce NetworkPolicies; turn it off where the pod network does")
		cmd.Flags().StringVar(&o.nodeName, "node-name", "", "name of this machine's Node (default: the host name)")
		o.rangeFlags(cmd.Flags())
	}
	cmd := alone("proxy", "Run the proxy of this machine alone", flags, func(_ kubernetes.Interface, factory informers.SharedInformerFactory) (component, error) {
		s := settings{options: o}
		if err := s.parseName(); err != nil {
			return nil, err
		}
		if err := s.parseRanges(); err != nil {
			return nil, err
		}
		config := s.proxyConfig()
		config.Policies, config.Socket = policies, socket
		return proxy.New(config, factory)
	})
	cmd.AddCommand(proxyDumpCommand())
	return cmd
}

func proxyDumpCommand() *cobra.Command {
	var d dirs
	var socket string
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Print what the proxy of this machine holds the kernel to, in the language of nft",
		Long: `Print what the proxy of this machine holds the kernel to, in the language of nft (see nft(8)), with a comment behind every
element: which Service, pod or policy it is for. What the kernel has is printed by "nft list table inet ` + nftTable + `".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if socket == "" {
				socket = d.proxySocket()
			}
			return lookInto(cmd.Context(), "proxy", socket, "/dump", cmd.OutOrStdout())
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&socket, "socket", "", "of a proxy that runs alone")
	return cmd
}

// proxySocket is where the proxy of a node shows what it does.
func (d dirs) proxySocket() string { return filepath.Join(d.run, "proxy.sock") }

// nftTable is the proxy's table in the kernel, and the only one that it touches.
const nftTable = "skiff"

func (s *settings) proxyConfig() proxy.Config {
	return proxy.Config{
		NodeName: s.nodeName, ClusterCIDR: s.clusterRanges, ServiceCIDR: s.serviceRanges,
		LocalAddresses: s.dns, Table: nftTable,
	}
}
