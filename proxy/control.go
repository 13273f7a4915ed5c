package proxy

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"skiff/control"
)

// serveControl shows what the proxy knows and does: /dump, a file for nft in which every element says whose it is, and /metrics.
func (p *Proxy) serveControl(ctx context.Context, listener net.Listener) error {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(p); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dump", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, p.dump()) // A client that is gone needs no answer.
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return control.Serve(ctx, listener, mux)
}

func (p *Proxy) dump() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules.Dump()
}
