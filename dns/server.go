// Package dns gives Services their names. It keeps the records of all Services of the cluster in an index and answers
// from it, on the cluster's DNS address; what is outside of the cluster it asks the host's own resolvers.
//
// Three parts follow one another. Records are made from a Service and its EndpointSlices, or from a Namespace, by pure
// functions (records.go); the record set is that of the Kubernetes DNS specification 1.1. They go into the index, one
// giver's at a time, so that a change costs what changed (index.go), and as the bytes that will stand in answers
// (rrset.go). A question is answered by looking up, or by asking others. The [Server] ties these to the informers and to
// the sockets.
//
// There are two ways to an answer. An ordinary question about what is in the index, or in the cache, is answered in its own
// packet, without allocating (fast.go, wire.go); those that have come together go together (batch.go). All else is read by
// github.com/miekg/dns and answered with care (serve.go, answer.go). The second could do all that the first does, and a fuzz
// test holds that both say the same.
//
// Outside names are asked of the host's resolvers, or of servers that a zone has of its own (forward.go), in such a way that
// no pod waits for one that does not answer (group.go, upstream.go), and remembered (cache.go, message.go). Whatever a
// client does, others keep their place (fairness.go, listen.go).
//
// Two promises matter more than speed. Never a false "no such name": until all has been read once, a question is held for a
// moment, and then the answer is SERVFAIL, at which a resolver asks again. And a name that exists without records of the
// wanted type is NODATA, not NXDOMAIN: on this difference hangs how resolvers walk a pod's search list.
//
// Each node has its own server, on an address, or one of each family of Services, that exists on the node only. Whoever can
// route a packet to the node could still reach it, so it serves none but pods (by the cluster CIDR) and the node itself, and
// refuses the rest.
//
// In Kubernetes: CoreDNS with its plugins kubernetes, forward, cache, errors, loop, loadbalance, prometheus and, if asked
// for, autopath and log; and NodeLocal DNSCache. Left out: names of single endpoints of a Service that is not headless, zone
// transfer, DNSSEC validation, and all other plugins.
package dns

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"skiff/control"
	"skiff/reconcile"
)

// Config says where to listen and for what to answer.
type Config struct {
	Addresses []netip.Addr // The cluster's DNS addresses, on which to listen. The host need not have them yet.
	Port      uint16       // 53; 0 is any that is free, see [Server.Addrs].
	Domain    string       // The cluster domain; "" is cluster.local.

	ClusterCIDR []netip.Prefix // Pods' addresses: reverse names of ours, and who may ask besides this node.
	ServiceCIDR []netip.Prefix // Services' addresses: reverse names of ours.

	Pods     PodNames // Which addresses have a name below pod.DOMAIN; "" is PodsInsecure.
	Autopath bool     // Walk the search path for pods: see searchPath.

	// Resolv is the file that lists the resolvers for outside names; "" is /etc/resolv.conf. It is read again when it
	// changes. This server's own address in it is passed over.
	Resolv   string
	Forwards []Forward      // Zones with servers of their own. "." is all that Resolv would be asked for.
	Roots    *x509.CertPool // Who may sign certificates of servers that are asked over TLS; nil is whom the host trusts.

	Socket  string // Path of the socket on which the server tells about itself; "" is none.
	Metrics uint16 // Port beside the DNS port where whoever may ask gets the metrics; 0 is none.
}

// PodNames says which addresses have a name like 10-42-0-7.NAMESPACE.pod.DOMAIN (section 2.6 of the specification).
type PodNames string

// The values are CoreDNS'.
const (
	PodsInsecure PodNames = "insecure" // All, in every Namespace: the name tells the address itself.
	PodsVerified PodNames = "verified" // Those of pods, in their own Namespace.
	PodsDisabled PodNames = "disabled" // None.
)

// Server answers DNS questions. Build one with [New].
type Server struct {
	cfg     Config
	domain  string // Lower case, with its dot.
	index   *index
	forward *forwarder
	metrics *metrics
	log     queryLog
	sockets sockets
	control net.Listener   // Nil without Config.Socket.
	scraped []net.Listener // At each address, if Config.Metrics says so.
	source  source
	loop    *reconcile.Loop
	synced  atomic.Bool // All that the API server had at the start is in the index.

	opened    chan struct{} // Closed when synced.
	holdUntil time.Time     // Questions that come before are held until then; see hold.

	handlers sync.WaitGroup // Of answers that others are asked for.
}

// New checks the configuration, opens the sockets, and asks factory for the informers that the server needs; start the
// factory afterwards. Questions wait until Run.
func New(cfg Config, factory informers.SharedInformerFactory) (*Server, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, domain: dns.CanonicalName(cfg.Domain), opened: make(chan struct{}), holdUntil: time.Now().Add(startTime)}
	reverse := reverseZones(slices.Concat(cfg.ServiceCIDR, cfg.ClusterCIDR))
	apex := apexRecords(s.domain, reverse, cfg.Addresses, uint32(time.Now().Unix()), cfg.Pods)
	if s.index, err = newIndex(apex); err != nil {
		return nil, err
	}
	s.index.insecure, s.index.autopath = cfg.Pods == PodsInsecure, cfg.Autopath
	for _, forward := range cfg.Forwards {
		if wire, ok := wireName(forward.Zone); !ok || s.index.zone([]byte(wire)) != nil {
			return nil, fmt.Errorf("dns zone %s: the cluster's own names are not forwarded", forward.Zone)
		}
	}
	s.loop = reconcile.New("dns", s.update)
	if s.source, err = newSource(s.domain, cfg, factory, s.loop); err != nil {
		return nil, err
	}
	if s.sockets, err = listen(cfg.Addresses, cfg.Port); err != nil {
		return nil, err
	}
	if err := s.listenAbout(); err != nil {
		s.sockets.Close()
		return nil, err
	}
	s.metrics = newMetrics(
		func() float64 { return float64(len(s.forward.cache.all())) },
		func() float64 { return float64(s.index.size()) })
	s.forward = newForwarder(cfg.Resolv, s.Addrs(), cfg.Forwards, cfg.Roots, s.metrics)
	return s, nil
}

// listenAbout opens where the server tells about itself.
func (s *Server) listenAbout() (err error) {
	defer func() {
		if err != nil {
			for _, listener := range s.scraped {
				listener.Close()
			}
		}
	}()
	if s.cfg.Metrics != 0 {
		for _, address := range s.cfg.Addresses {
			listener, err := listenTCP(netip.AddrPortFrom(address, s.cfg.Metrics))
			if err != nil {
				return fmt.Errorf("listen for readers of the dns metrics: %w", err)
			}
			s.scraped = append(s.scraped, listener)
		}
	}
	if s.cfg.Socket != "" {
		s.control, err = control.Listen(s.cfg.Socket, "dns server")
	}
	return err
}

// complete fills in what was left out, and refuses what makes no sense.
func (cfg Config) complete() (Config, error) {
	if len(cfg.Addresses) == 0 {
		return cfg, errors.New("dns: want an address to listen on")
	}
	for _, address := range cfg.Addresses {
		if !address.IsValid() || address.IsUnspecified() {
			return cfg, fmt.Errorf("dns address %v: want the one address to listen on", address)
		}
	}
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if labels, ok := dns.IsDomainName(cfg.Domain); !ok || labels == 0 {
		return cfg, fmt.Errorf("cluster domain %q: not a domain name", cfg.Domain)
	}
	if cfg.Resolv == "" {
		cfg.Resolv = "/etc/resolv.conf"
	}
	switch cfg.Pods {
	case "":
		cfg.Pods = PodsInsecure
	case PodsInsecure, PodsVerified, PodsDisabled:
	default:
		return cfg, fmt.Errorf("dns names of pods %q: want insecure, verified or disabled", cfg.Pods)
	}
	return cfg, nil
}

// Addrs are where the server listens, UDP and TCP alike.
func (s *Server) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(s.cfg.Addresses))
	for i, address := range s.cfg.Addresses {
		addrs[i] = netip.AddrPortFrom(address, s.sockets.port())
	}
	return addrs
}

// Run answers until ctx ends, or until a socket fails, and closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(s.sockets.udp)+len(s.sockets.tcp)+len(s.scraped)+2)
	var wg sync.WaitGroup
	run := func(part func(context.Context) error) {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				failed <- err
			}
		})
	}
	for _, conn := range s.sockets.udp {
		run(func(ctx context.Context) error { return s.serveUDP(ctx, conn) })
	}
	for _, listener := range s.sockets.tcp {
		run(func(ctx context.Context) error { return s.serveTCP(ctx, listener) })
	}
	run(s.follow)
	if s.control != nil {
		run(func(ctx context.Context) error { return control.Serve(ctx, s.control, s.controlRoutes()) })
	}
	for _, listener := range s.scraped {
		run(func(ctx context.Context) error { return control.Serve(ctx, listener, s.metricsRoutes()) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve dns: %w", err)
	}
	cancel()
	s.sockets.Close()
	wg.Wait()
	s.handlers.Wait()
	s.forward.close()
	return err
}

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
	close(s.opened)
	slog.Info("dns is ready", "addresses", s.Addrs(), "domain", strings.TrimSuffix(s.domain, "."))
	s.loop.Run(ctx, 1)
	return nil
}

// update brings the index up to date with one Service, Namespace or address of pods.
func (s *Server) update(_ context.Context, key string) (time.Duration, error) {
	records, err := s.source.records(key)
	if err != nil {
		return 0, err
	}
	s.index.put(key, records)
	return 0, nil
}
