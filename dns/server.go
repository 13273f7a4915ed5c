// Package dns gives Services their names. It keeps the records of all Services of the cluster in an index and answers
// from it, on the cluster's DNS address; what is outside of the cluster it asks the host's own resolvers.
//
// Three parts follow one another. Records are made from a Service and its EndpointSlices, or from a Namespace, by pure
// functions (records.go); the record set is that of the Kubernetes DNS specification 1.1. They go into the index, one
// giver's at a time, so that a change costs what changed (index.go). A question is answered by looking up (answer.go), or
// forwarded (forward.go). The [Server] ties these to the informers and to the sockets.
//
// Two promises matter more than speed. Never a false "no such name": until all has been read once, the answer is SERVFAIL,
// at which a resolver asks again. And a name that exists without records of the wanted type is NODATA, not NXDOMAIN:
// on this difference hangs how resolvers walk a pod's search list.
//
// Each node has its own server, on an address that exists on the node only. Whoever can route a packet to the node could
// still reach it, so it serves none but pods (by the cluster CIDR) and the node itself, and refuses the rest.
//
// In Kubernetes: CoreDNS with its plugins kubernetes, forward, errors and loadbalance. Left out: pod names checked against
// real pods ("pods verified"), names of single endpoints of a Service that is not headless, zone transfer, a cache of
// outside names, and all other plugins.
package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// Config says where to listen and for what to answer.
type Config struct {
	Address netip.Addr // The cluster's DNS address, on which to listen. The host need not have it yet.
	Port    uint16     // 53; 0 is any free one, see [Server.Addr].
	Domain  string     // The cluster domain; "" is cluster.local.

	ClusterCIDR []netip.Prefix // Pods' addresses: reverse names of ours, and who may ask besides this node.
	ServiceCIDR []netip.Prefix // Services' addresses: reverse names of ours.

	// Resolv is the file that lists the resolvers for outside names; "" is /etc/resolv.conf. It is read again when it
	// changes. This server's own address in it is passed over.
	Resolv string
}

// Server answers DNS questions. Build one with [New].
type Server struct {
	cfg     Config
	domain  string // Lower case, with its dot.
	index   *index
	forward *forwarder
	udp     *net.UDPConn
	tcp     net.Listener
	source  source
	loop    *reconcile.Loop
	synced  atomic.Bool // All that the API server had at the start is in the index.
}

// New checks the configuration, opens the sockets, and asks factory for the informers that the server needs; start the
// factory afterwards. Questions wait until Run.
func New(cfg Config, factory informers.SharedInformerFactory) (*Server, error) {
	if !cfg.Address.IsValid() || cfg.Address.IsUnspecified() {
		return nil, fmt.Errorf("dns address %v: want the one address to listen on", cfg.Address)
	}
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if labels, ok := dns.IsDomainName(cfg.Domain); !ok || labels == 0 {
		return nil, fmt.Errorf("cluster domain %q: not a domain name", cfg.Domain)
	}
	if cfg.Resolv == "" {
		cfg.Resolv = "/etc/resolv.conf"
	}
	s := &Server{cfg: cfg, domain: dns.CanonicalName(cfg.Domain)}
	reverse := reverseZones(slices.Concat(cfg.ServiceCIDR, cfg.ClusterCIDR))
	s.index = newIndex(apexRecords(s.domain, reverse, cfg.Address, uint32(time.Now().Unix())))
	s.loop = reconcile.New("dns", s.update)
	var err error
	if s.source, err = newSource(s.domain, factory, s.loop); err != nil {
		return nil, err
	}
	if s.udp, s.tcp, err = listen(netip.AddrPortFrom(cfg.Address, cfg.Port)); err != nil {
		return nil, err
	}
	s.forward = newForwarder(cfg.Resolv, s.Addr())
	return s, nil
}

// Addr is where the server listens, UDP and TCP alike.
func (s *Server) Addr() netip.AddrPort {
	return s.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Run answers until ctx ends, or until a socket fails, and closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) { s.serve(ctx, w, question) })
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan error, 3)
	for _, server := range []*dns.Server{
		// A server that is stopped wakes its readers: an idle socket need not wake up by itself.
		{PacketConn: s.udp, Handler: handler, UDPSize: maxUDPSize, ReadTimeout: time.Hour},
		{Listener: s.tcp, Handler: handler, MaxTCPQueries: -1, ReadTimeout: idleTimeout, IdleTimeout: idle},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { failed <- server.ActivateAndServe() })
		select {
		case err := <-failed:
			return fmt.Errorf("serve dns: %w", err)
		case <-started:
			defer server.Shutdown()
		}
	}
	wg.Go(func() {
		if err := s.follow(ctx); err != nil {
			failed <- err
		}
	})
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		cancel()
		return fmt.Errorf("serve dns: %w", err)
	}
}

func idle() time.Duration { return idleTimeout }

// follow fills the index with all there is, opens it, and keeps it up to date until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", s.source.synced...) {
		return nil
	}
	keys, err := s.source.keys()
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for _, key := range keys {
		if _, err := s.update(ctx, key); err != nil {
			return err
		}
	}
	s.synced.Store(true)
	slog.Info("dns is ready", "address", s.Addr(), "domain", s.domain)
	s.loop.Run(ctx, 1)
	return nil
}

// update brings the index up to date with one Service or Namespace.
func (s *Server) update(_ context.Context, key string) (time.Duration, error) {
	records, err := s.source.records(key)
	if err != nil {
		return 0, err
	}
	s.index.put(key, records)
	return 0, nil
}
