package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/cache"
)

// health is what the load balancer of a Service with externalTrafficPolicy Local needs to know of this node: it sends to nodes with
// endpoints only, and asks on a port that is the Service's own.
type health struct {
	port  uint16 // 0: nobody asks.
	ready int    // Endpoints on this node that take new connections.
}

// healthChecks answers on all these ports. It is for one goroutine.
type healthChecks struct {
	servers map[string]*healthServer // By Service.
	healthy atomic.Bool              // The kernel holds what the proxy wants it to.
}

type healthServer struct {
	http  http.Server
	port  uint16
	ready atomic.Int64
	ended sync.WaitGroup
}

// set has the port of the Service called name answered with the number of endpoints, or by nobody if it has no port.
func (h *healthChecks) set(name string, want health) error {
	s := h.servers[name]
	if s != nil && s.port != want.port {
		s.close()
		delete(h.servers, name)
		s = nil
	}
	if want.port == 0 {
		return nil
	}
	if s != nil {
		s.ready.Store(int64(want.ready))
		return nil
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", want.port))
	if err != nil {
		return fmt.Errorf("open the health check port of service %s: %w", name, err)
	}
	s = &healthServer{port: want.port}
	s.ready.Store(int64(want.ready))
	s.http = http.Server{Handler: h.handler(name, s), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	s.ended.Go(func() { _ = s.http.Serve(l) }) // It ends with close only.
	if h.servers == nil {
		h.servers = map[string]*healthServer{}
	}
	h.servers[name] = s
	return nil
}

func (s *healthServer) close() {
	_ = s.http.Close()
	s.ended.Wait()
}

// close ends all answering.
func (h *healthChecks) close() {
	for _, s := range h.servers {
		s.close()
	}
	h.servers = nil
}

// handler says 200 where there are endpoints and 503 where not, whatever path is asked for. Load balancers know the header.
func (h *healthChecks) handler(name string, s *healthServer) http.HandlerFunc {
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	type answer struct {
		Service        service `json:"service"`
		LocalEndpoints int64   `json:"localEndpoints"`
		ProxyHealthy   bool    `json:"serviceProxyHealthy"`
	}
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	return func(w http.ResponseWriter, _ *http.Request) {
		a := answer{service{namespace, short}, s.ready.Load(), h.healthy.Load()}
		body, marshalErr := json.MarshalIndent(a, "", "\t")
		if err := errors.Join(err, marshalErr); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(a.LocalEndpoints, 10))
		if a.LocalEndpoints == 0 || !a.ProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(append(body, '\n')) // A client that is gone needs no answer.
	}
}
