package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"skiff/agent"
	"skiff/agent/fake"
	"skiff/pki"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// pretended are nodes without containers, for clusters larger than the machine: the agents are those of real nodes, what they
// run on is in memory. An API server, its controllers and its scheduler cannot tell.
type pretended struct {
	kubeconfig string
	fake       bool
	nodes      int
	name       string
	address    string
	pkiDir     string
	maxPods    int
	heartbeat  time.Duration
	backoff    time.Duration
}

// Each pretended node has 256 addresses for its pods, of a range that no host on the internet has (RFC 6598). Nothing is ever
// sent there.
const (
	pretendedFirst   = "100.64.0.1"
	maxPretended     = 1 << 14
	maxPretendedPods = 250
)

func agentCommand() *cobra.Command {
	var p pretended
	cmd := &cobra.Command{
		Use:   "agent --kubeconfig FILE --fake-runtime",
		Short: "Run the agents of nodes whose containers are only pretended, to see how a large cluster behaves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.kubeconfig, "kubeconfig", "", "file that says which API server, and as whom (required)")
	f.BoolVar(&p.fake, "fake-runtime", false, "pretend the containers (required: a node with real ones is a part of 'skiff server')")
	f.IntVar(&p.nodes, "nodes", 1, "how many nodes")
	f.StringVar(&p.name, "node-name", "fake", "what their names begin with: fake-0, fake-1 and so on")
	f.StringVar(&p.address, "node-address", "127.0.0.1", "address at which the API server reaches the agents, each at a port of its own")
	f.StringVar(&p.pkiDir, "pki-dir", "", "folder with the cluster's authority, DATA/pki of its server; without it the API server trusts no agent when it asks for logs")
	f.IntVar(&p.maxPods, "max-pods", 110, "how many pods a node takes")
	f.DurationVar(&p.heartbeat, "heartbeat-interval", 20*time.Second, "how often a node says that it is alive")
	f.DurationVar(&p.backoff, "max-restart-backoff", 5*time.Minute, "how long at most a container that failed again and again waits")
	return cmd
}

func (p pretended) run(ctx context.Context, out io.Writer) error {
	switch {
	case !p.fake:
		return errors.New("an agent alone only pretends its containers so far: give it --fake-runtime; a node with real ones is a part of `skiff server`")
	case p.nodes < 1 || p.nodes > maxPretended:
		return fmt.Errorf("--nodes %d: it must be from 1 to %d", p.nodes, maxPretended)
	case p.maxPods < 1 || p.maxPods > maxPretendedPods:
		return fmt.Errorf("--max-pods %d: it must be from 1 to %d", p.maxPods, maxPretendedPods)
	}
	client, factory, err := connect(p.kubeconfig, "agent")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "skiff-agent-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if p.pkiDir == "" {
		p.pkiDir = filepath.Join(dir, "pki")
	}
	tlsConfig, err := p.tls()
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range p.nodes {
		a, err := p.node(i, filepath.Join(dir, "nodes"), tlsConfig, client, factory)
		if err != nil {
			return err
		}
		group.Go(func() error { return a.Run(groupCtx) })
	}
	factory.Start(groupCtx.Done())
	fmt.Fprintf(out, "skiff: %d pretended nodes run\n", p.nodes)
	err = group.Wait()
	factory.Shutdown()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tls is how all the agents listen.
func (p pretended) tls() (*tls.Config, error) {
	ca, err := pki.EnsureCA(p.pkiDir)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Server([]string{p.address})
	if err != nil {
		return nil, err
	}
	return ca.ServerTLS(pair)
}

func (p pretended) node(i int, dir string, tlsConfig *tls.Config, client kubernetes.Interface, factory informers.SharedInformerFactory) (*agent.Agent, error) {
	name := fmt.Sprintf("%s-%d", p.name, i)
	runtime := fake.NewRuntime()
	runtime.HaveAll()
	first := netip.MustParseAddr(pretendedFirst).As4()
	first[1], first[2] = first[1]+byte(i>>8), byte(i)
	return agent.New(agent.Config{
		NodeName: name, NodeIPs: []string{p.address}, Listen: ":0", TLS: tlsConfig, Pretend: true, Workers: 2,
		DataDir: filepath.Join(dir, name, "data"), RunDir: filepath.Join(dir, name, "run"),
		Version: kubernetesVersion + "+skiff", MaxPods: p.maxPods, HeartbeatInterval: p.heartbeat, MaxRestartBackoff: p.backoff,
		Labels: map[string]string{"skiff.dev/pretended": "true"},
	}, client, factory, runtime, fake.NewNetworkFrom(netip.AddrFrom4(first)))
}
