package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skiff/api"
	"skiff/apiserver"
	"skiff/apiserver/gather"
	"skiff/controller"
	"skiff/handover"
	"skiff/pki"
	"skiff/reconcile"
	"skiff/scheduler"
	"skiff/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

func serverCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a cluster in the foreground: the control plane, and this machine as a node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.parse()
			if err != nil {
				return err
			}
			return s.serve(cmd.Context(), cmd.OutOrStdout())
		},
	}
	o.flags(cmd)
	return cmd
}

// plane is the control plane: the store, the API over it, and the port that it is served on.
type plane struct {
	settings
	ca       *pki.CA
	account  *ecdsa.PrivateKey // Of the tokens of ServiceAccounts.
	lock     *os.File          // Of the data directory.
	store    store.Store
	api      *apiserver.Server
	listener net.Listener
	progress *handover.Progress // Of this machine's proxy; nil, if it is no node.
	queues   *reconcile.Metrics // Of all components' loops.

	whereabouts *whereabouts
}

// serve runs everything until ctx ends. It stops in the order of dependence: the components first, which may still write,
// then the API, then the store. Containers run on.
func (s settings) serve(ctx context.Context, out io.Writer) error {
	started := time.Now()
	p, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer p.lock.Close()
	defer p.store.Close()
	defer p.listener.Close()
	pid, err := s.writePid()
	if err != nil {
		return err
	}
	defer pid.Close()
	defer os.Remove(s.pidFile())

	// The API outlives ctx by as long as the components need.
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAPI()
	apiGroup, apiCtx := errgroup.WithContext(apiCtx)
	apiGroup.Go(func() error { return p.api.Run(apiCtx) })
	apiGroup.Go(func() error { keepSmall(apiCtx, quietAfter, p.forget); return nil })
	if err := p.api.Bootstrap(apiCtx); err != nil {
		return err
	}
	p.whereabouts.follow(func(s settings) {
		if err := p.api.Move(apiCtx, netip.AddrPortFrom(s.address, s.port)); err != nil {
			slog.Warn("the Service \"kubernetes\" does not have this machine's new address", "err", err)
		}
	})
	web, err := p.web()
	if err != nil {
		return err
	}
	apiGroup.Go(func() error { return serveUntil(apiCtx, web, p.listener) })
	fmt.Fprintf(out, "skiff: the API answers at %s after %s; kubeconfig: %s\n", p.url(), since(started), p.kubeconfigOut)

	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { // The components stop too if the API does.
		select {
		case <-apiCtx.Done():
			return errors.New("the API server stopped")
		case <-groupCtx.Done():
			return nil
		}
	})
	group.Go(func() error { p.whereabouts.run(groupCtx); return nil })
	group.Go(func() error { return p.components(groupCtx, out, started) })
	err = group.Wait()
	if ctx.Err() != nil {
		err = nil // We were told to stop.
	}
	p.withdraw(apiCtx)
	stopAPI()
	if apiErr := apiGroup.Wait(); apiErr != nil {
		err = apiErr // Why the components stopped.
	}
	return err
}

// withdraw tells the other servers that this one goes. They would find out by themselves, only later.
func (p *plane) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastRequests)
	defer cancel()
	if err := p.api.Leave(ctx); err != nil {
		slog.Warn("the other servers do not know that this one stops", "err", err)
	}
}

func since(t time.Time) string { return time.Since(t).Round(time.Millisecond).String() }

// open opens what can fail before anything runs: directories, store, certificates, port.
func (s settings) open(ctx context.Context) (*plane, error) {
	debug.SetGCPercent(growthStart)
	defer debug.SetGCPercent(growthQuiet)
	for _, dir := range []string{s.data, s.run, s.images()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory %s: %w", dir, err)
		}
	}
	if err := os.Chmod(s.run, 0o711); err != nil { // The users of a pod's own are nobody here, and find their root below it.
		return nil, err
	}
	lock, err := s.lockData()
	if err != nil {
		return nil, err
	}
	db, err := s.openStore(ctx)
	if err != nil {
		lock.Close()
		return nil, err
	}
	p := &plane{settings: s, lock: lock, store: db, queues: reconcile.NewMetrics(), whereabouts: &whereabouts{now: s}}
	workqueue.SetProvider(p.queues)
	if !s.noAgent {
		p.progress = handover.NewProgress(s.nodeName)
	}
	if err := errors.Join(p.openPKI(ctx), p.listen()); err != nil {
		db.Close()
		lock.Close()
		return nil, err
	}
	if p.api, err = p.newAPI(ctx); err != nil {
		db.Close()
		lock.Close()
		p.listener.Close()
		return nil, err
	}
	return p, nil
}

const (
	lockTimeout = time.Second // How long to wait for a server that is just stopping.
	lockRetry   = 20 * time.Millisecond
)

// lockData makes this server the only one of its data directory for as long as the file is open. It locks the directory itself,
// because a disk may be read-only.
func (s settings) lockData() (*os.File, error) {
	dir, err := os.Open(s.data)
	if err != nil {
		return nil, fmt.Errorf("open the data directory: %w", err)
	}
	for deadline := time.Now().Add(lockTimeout); unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil; time.Sleep(lockRetry) {
		if time.Now().After(deadline) {
			dir.Close()
			return nil, fmt.Errorf("data directory %s is in use by another skiff server", s.data)
		}
	}
	return dir, nil
}

func (s settings) url() string {
	return "https://" + net.JoinHostPort(s.loopback(), strconv.Itoa(int(s.port)))
}

// loopback is how processes on this machine reach the API.
func (s settings) loopback() string {
	if addr, err := netip.ParseAddr(s.bindAddress); err == nil && !addr.IsUnspecified() {
		return addr.String()
	}
	return "127.0.0.1"
}

func (p *plane) openPKI(ctx context.Context) (err error) {
	if err := p.joins(ctx); err != nil {
		return err
	}
	if p.ca, err = pki.EnsureCA(p.pki()); err != nil {
		return err
	}
	if p.account, err = pki.EnsureAccountKey(p.pki()); err != nil {
		return err
	}
	if err := p.agree(ctx); err != nil {
		return err
	}
	return p.ca.EnsureKubeconfig(p.kubeconfigOut, p.url(), "kubernetes-admin", administrators)
}

// listen takes the API's port.
func (p *plane) listen() (err error) {
	host := p.bindAddress
	if bind, err := netip.ParseAddr(host); err == nil && bind.IsUnspecified() && p.address.Is6() {
		host = "::" // Where IPv4 is heard, too.
	}
	addr := net.JoinHostPort(host, strconv.Itoa(int(p.port)))
	p.listener, err = net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d is in use: stop what listens there, or choose another with --port", p.port)
	case err != nil:
		return fmt.Errorf("listen on --bind-address %s: %w", p.bindAddress, err)
	}
	return nil
}

// serverHosts are the names and addresses under which clients reach the API and the agent.
func (s settings) serverHosts() []string {
	return append([]string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.clusterDomain,
		s.nodeName, "127.0.0.1", s.loopback(), s.address.String(), s.serviceRanges[0].Addr().Next().String(),
	}, texts(append(slices.Clone(s.addresses), s.earlier...))...)
}

func (p *plane) newAPI(ctx context.Context) (*apiserver.Server, error) {
	transport, err := p.nodeTransport()
	if err != nil {
		return nil, err
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	return apiserver.New(ctx, p.store, apiserver.Config{
		Version: apiversion.Info{
			Major: major, Minor: minor, GitVersion: kubernetesVersion + "+skiff", GitTreeState: "clean",
			GoVersion: goruntime.Version(), Compiler: goruntime.Compiler, Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
		},
		ServiceCIDRs:  p.serviceRanges,
		NodePorts:     p.ports,
		Advertise:     netip.AddrPortFrom(p.address, p.port),
		ClusterDNS:    p.dns,
		Issuer:        "https://kubernetes.default.svc." + p.clusterDomain,
		AccountKey:    p.account,
		ClientCA:      p.ca.PEM(),
		NodeTransport: transport,
		Common:        p.common(),
		Collectors:    []prometheus.Collector{p.queues},
	})
}

// agentPort is where the API server reaches an agent.
const agentPort = 10250

// administrators is the group that may do everything.
const administrators = "system:masters"

// apiserverUser is who the API server is to the agents.
const apiserverUser = "system:skiff-apiserver"

// nodeTransport is how the API server reaches the agents.
func (p *plane) nodeTransport() (*http.Transport, error) {
	pair, err := p.ca.Client(apiserverUser)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: p.ca.Pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}, nil
}

// web is the HTTPS server for clients from outside this process.
func (p *plane) web() (*http.Server, error) {
	config, err := p.serverTLS(func(hosts []string) (pki.Pair, error) { return p.ca.EnsureServer(p.pki(), hosts) })
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{"h2", "http/1.1"}
	return &http.Server{
		Handler:           p.api,
		TLSConfig:         config,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10, // Longer URLs and headers are refused with 431.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      30 * time.Second, // A client that is gone without a word is found out.
			WriteByteTimeout:     time.Minute,      // And so is one that takes nothing any more.
		},
		ErrorLog: log.New(io.Discard, "", 0), // A client that breaks off a handshake is not our concern.
	}, nil
}

// lastRequests is how long requests under way may take when the server stops. Watches end at once by themselves.
const lastRequests = 2 * time.Second

func serveUntil(ctx context.Context, web *http.Server, listener net.Listener) error {
	ended := make(chan error, 1)
	gathered := gather.NewListener(listener)
	go func() { ended <- web.ServeTLS(gathered, "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRequests)
	defer cancel()
	if web.Shutdown(deadline) != nil {
		_ = web.Close()
	}
	<-ended
	gathered.Drain(deadline)
	return nil
}

// client makes requests as the given user, without a socket.
func (p *plane) client(name string, groups ...string) (kubernetes.Interface, error) {
	return newClient(&rest.Config{
		Host:      "http://skiff",
		Transport: p.api.Transport(apiserver.User{Name: name, Groups: groups}),
		UserAgent: "skiff/" + version,
	})
}

// shared makes the one factory of informers for all components. They read the API server's own objects in memory. Of the
// kinds that are stored, Events have no informer, for they are many and no component reads them; nor have definitions of kinds, which
// client-go's factory does not know.
func (p *plane) shared(client kubernetes.Interface) informers.SharedInformerFactory {
	factory := informers.NewSharedInformerFactory(client, 0)
	for _, r := range api.Table() {
		if !r.Keeps() || r.Kind == "Event" || r.Kind == "CustomResourceDefinition" {
			continue
		}
		obj := r.New()
		factory.InformerFor(obj, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
			return newJoint(cache.NewSharedIndexInformer(p.api.ListerWatcher(obj), obj, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}))
		})
	}
	return factory
}

// components runs everything that is a client of the API.
func (p *plane) components(ctx context.Context, out io.Writer, started time.Time) error {
	client, err := p.client("system:skiff-controller", administrators)
	if err != nil {
		return err
	}
	factory := p.shared(client)
	stop := make(chan struct{})
	defer factory.Shutdown()
	defer close(stop) // After the components have returned.

	runs, err := p.singletonRuns(ctx, client, factory)
	if err != nil {
		return err
	}
	factory.Start(stop)
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range runs {
		group.Go(func() error { return run(ctx) })
	}
	if !p.noAgent {
		group.Go(func() error {
			if !p.untilWritable(ctx) {
				return nil
			}
			n := &node{plane: p, factory: factory, stop: stop}
			return n.run(ctx, func() {
				fmt.Fprintf(out, "skiff: node %s is Ready after %s\n", p.nodeName, since(started))
				tellReady()
			})
		})
	}
	return group.Wait()
}

// singletonRuns is how to run the components of which a cluster has one each: with the informers of this server, or, where
// there may be other servers, whenever this one is elected.
func (p *plane) singletonRuns(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory) (runs []func(context.Context) error, err error) {
	for _, s := range p.singletons(client) {
		if p.storage.shared() {
			runs = append(runs, func(ctx context.Context) error { return p.elect(ctx, client, s) })
			continue
		}
		c, err := s.build(ctx, factory)
		if err != nil {
			return nil, err
		}
		runs = append(runs, c.Run)
	}
	return runs, nil
}

func (p *plane) singletons(client kubernetes.Interface) []singleton {
	return []singleton{
		{"kube-controller-manager", func(ctx context.Context, factory informers.SharedInformerFactory) (component, error) {
			sign, err := apiserver.SecretTokens(p.account)
			if err != nil {
				return nil, err
			}
			traffic, err := handover.New(ctx, factory, p.progress)
			if err != nil {
				return nil, err
			}
			config := controller.Config{
				RootCA: p.ca.PEM(), SecretToken: sign, ClusterCIDR: p.clusterRanges,
				ReservedPorts: []uint16{p.port, agentPort},
			}
			if !p.racing {
				config.Traffic = traffic
			}
			return controller.New(client, factory, config)
		}},
		{"kube-scheduler", func(_ context.Context, factory informers.SharedInformerFactory) (component, error) {
			return scheduler.New(client, factory, scheduler.Config{})
		}},
	}
}

// writePid notes the process ID in a file that is locked for as long as this process lives: by that others know that the
// number still means it.
func (s settings) writePid() (*os.File, error) {
	f, err := os.OpenFile(s.pidFile(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("note the process ID: %w", err)
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		f.Close()
		return nil, fmt.Errorf("run directory %s is in use by another skiff server", s.run)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("note the process ID: %w", err)
	}
	return f, nil
}
