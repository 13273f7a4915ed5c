package dns

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The server shows what it knows and does on its control socket: /dump, /log, /metrics; and the metrics, which are no more than
// counts, to all whom it answers.

func (s *Server) controlRoutes() http.Handler {
	r := chi.NewRouter()
	r.Get("/dump", s.serveDump)
	r.Get("/log", s.serveLog)
	r.Method(http.MethodGet, "/metrics", s.metricsHandler())
	return r
}

// metricsRoutes are for a Prometheus in the cluster, which finds CoreDNS' metrics at the same place.
func (s *Server) metricsRoutes() http.Handler {
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if client, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !s.serves(client.Addr().Unmap()) {
				http.Error(w, "only pods and this node may ask", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r.Method(http.MethodGet, "/metrics", s.metricsHandler())
	return r
}

func (s *Server) metricsHandler() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// serveLog shows answers as they are given: all, or those to each ?client=, one of ?every=.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request) {
	var clients []netip.Addr
	for _, text := range r.URL.Query()["client"] {
		client, err := netip.ParseAddr(text)
		if err != nil {
			http.Error(w, fmt.Sprintf("client %q: not an address", text), http.StatusBadRequest)
			return
		}
		clients = append(clients, client)
	}
	every := uint64(1)
	if text := r.URL.Query().Get("every"); text != "" {
		var err error
		if every, err = strconv.ParseUint(text, 10, 32); err != nil || every == 0 {
			http.Error(w, fmt.Sprintf("every %q: not a number from 1", text), http.StatusBadRequest)
			return
		}
	}
	reader, stop, ok := s.log.read(clients, every)
	if !ok {
		http.Error(w, "too many read the log", http.StatusTooManyRequests)
		return
	}
	defer stop()
	flush := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	for flush.Flush() == nil {
		select {
		case line := <-reader.lines:
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// serveDump shows the zones as the text of zone files, and, as comments, the servers outside and the answers kept.
func (s *Server) serveDump(w http.ResponseWriter, _ *http.Request) {
	out := bufio.NewWriter(w)
	defer out.Flush()
	if !s.synced.Load() {
		fmt.Fprintln(out, "; the API server has not been read yet: names of the cluster are answered with SERVFAIL")
	}
	s.index.dump(out)
	now := time.Now()
	groups := s.forward.groups()
	for _, zone := range slices.Sorted(maps.Keys(groups)) {
		for _, u := range groups[zone] {
			fmt.Fprintf(out, "; server of %s %v %v\n", zone, u.address, u.health(now))
		}
	}
	for _, m := range s.forward.cache.all() {
		name, rrtype, _ := keyQuestion(m.key)
		left := m.stored.Add(m.ttl).Sub(now).Round(time.Second)
		fmt.Fprintf(out, "; kept %s %s %s for %v\n", textName(name), dns.Type(rrtype), rcodeName(int(m.rcode)), left)
	}
}

// dump writes all names of the zones in order, those that exist without records as comments.
func (x *index) dump(out io.Writer) {
	x.mu.RLock()
	names := make(map[string]string, len(x.names))
	for name := range x.names {
		names[textName(name)] = name
	}
	x.mu.RUnlock()
	for _, text := range slices.Sorted(maps.Keys(names)) {
		e := x.find([]byte(names[text]))
		if e == nil {
			continue // It has gone meanwhile.
		}
		rrs := e.of(names[text], dns.TypeANY)
		if len(rrs) == 0 {
			fmt.Fprintf(out, "; %s\n", text)
		}
		for _, rr := range rrs {
			fmt.Fprintln(out, rr)
		}
	}
}
