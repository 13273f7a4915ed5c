// Package control lets root look into a component that runs on a machine: the component answers over HTTP on a socket in the
// file system, to who may open that file.
//
// In Kubernetes: the debug and metrics endpoints of each component, on a port of localhost. Left out: anything that changes what
// a component does.
package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Listen opens the socket of a component, which errors call so. One at which nobody answers is a dead component's, and is taken
// away; one at which another answers is an error.
func Listen(path, component string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another %s answers at %s", component, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the %s's socket: %w", component, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier %s: %w", component, err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the %s's socket: %w", component, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("protect the %s's socket: %w", component, err)
	}
	return listener, nil
}

// Serve answers until ctx ends, within bounds of time and size.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve at %v: %w", listener.Addr(), err)
	}
	return nil
}

// ErrNobody is Get's error where no component answers at the socket.
var ErrNobody = errors.New("nobody answers")

// Get copies to out what the component at a socket answers to a path. Where it refuses, the error is what it says, in one line.
func Get(ctx context.Context, socket, path string, out io.Writer) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrNobody, socket, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := bufio.NewReader(io.LimitReader(response.Body, 1<<10)).ReadString('\n')
		return errors.New(strings.TrimSpace(why))
	}
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("read from %s: %w", socket, err)
	}
	return nil
}
