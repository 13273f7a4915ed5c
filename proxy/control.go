package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The proxy shows what it knows and does over HTTP on a socket in the file system, to root alone: /dump, /metrics.

// listenControl opens that socket. One that is there is a dead proxy's.
func listenControl(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the proxy's socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier proxy: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the proxy's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("protect the proxy's socket: %w", err)
	}
	return listener, nil
}

// serveControl answers on the socket until ctx ends.
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
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the proxy's socket: %w", err)
	}
	return nil
}

func (p *Proxy) dump() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules.Dump()
}

// Dump copies to out what the proxy that listens on socket holds the kernel to, as a file for nft, in which every element says
// whose it is.
func Dump(ctx context.Context, socket string, out io.Writer) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy/dump", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the proxy: %s", response.Status)
	}
	if _, err = io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	return nil
}
