package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// asker asks a Service once, as its kind of client does.
type asker interface {
	ask(ctx context.Context) error
	close()
}

// load is clients that ask a Service all the time, and the requests that were lost.
type load struct {
	stop  func()
	asked map[string]*atomic.Int64 // By kind of client.
	mu    sync.Mutex
	lost  []string
}

// requestTime is after how long a request without an answer counts as lost. Many times what one takes on a busy machine.
const requestTime = 5 * time.Second

// pace is how long a client rests between two requests.
const pace = 4 * time.Millisecond

// newLoad starts clients of every kind in a network namespace, until stop is called or the test ends.
func newLoad(t testing.TB, namespace, service string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{asked: map[string]*atomic.Int64{}}
	var clients sync.WaitGroup
	for kind, a := range map[string]asker{
		"a connection each": newHTTP(namespace, "http://"+service+":80/", func(tr *http.Transport) { tr.DisableKeepAlives = true }),
		"keep-alive":        newHTTP(namespace, "http://"+service+":80/", func(*http.Transport) {}),
		"HTTP/2": newHTTP(namespace, "http://"+service+":8080/", func(tr *http.Transport) {
			tr.Protocols = new(http.Protocols)
			tr.Protocols.SetUnencryptedHTTP2(true)
		}),
		"UDP, a socket each": &datagrams{namespace: namespace, address: service + ":5353"},
	} {
		asked := &atomic.Int64{}
		l.asked[kind] = asked
		for range 2 {
			clients.Go(func() {
				for ctx.Err() == nil {
					start := time.Now()
					if err := ask(a); err != nil {
						l.lose(fmt.Sprintf("%s: %s after %v: %v", kind, start.Format("15:04:05.000"), time.Since(start).Round(time.Millisecond), err))
					}
					asked.Add(1)
					pauseFor(ctx, pace)
				}
			})
		}
		t.Cleanup(a.close)
	}
	l.stop = sync.OnceFunc(func() { cancel(); clients.Wait() })
	t.Cleanup(l.stop)
	return l
}

func ask(a asker) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	return a.ask(ctx)
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *load) lose(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = append(l.lost, what)
}

// losses returns what was lost since the last call.
func (l *load) losses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.lost
	l.lost = nil
	return lost
}

// flows waits until each kind of client has had some more answers.
func (l *load) flows(t testing.TB) {
	t.Helper()
	for kind, asked := range l.asked {
		before := asked.Load()
		eventually(t, patience, func() error {
			if n := asked.Load() - before; n < 20 {
				return fmt.Errorf("%s: %d requests", kind, n)
			}
			return nil
		})
	}
}

func (l *load) String() string {
	var counts []string
	for kind, asked := range l.asked {
		counts = append(counts, fmt.Sprintf("%s: %d", kind, asked.Load()))
	}
	return strings.Join(counts, ", ")
}

// httpClient is Go's own, which repeats a request whose connection the server has just closed.
type httpClient struct {
	http.Client
	url string
}

func newHTTP(namespace, url string, change func(*http.Transport)) *httpClient {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 2,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialIn(ctx, namespace, network, address)
		},
	}
	change(transport)
	return &httpClient{http.Client{Transport: transport}, url}
}

func (c *httpClient) ask(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || string(body) != "ok\n" {
		return fmt.Errorf("%s: %q", answer.Status, body)
	}
	return nil
}

func (c *httpClient) close() { c.CloseIdleConnections() }

// datagrams asks by UDP, from another port each time, as a resolver does.
type datagrams struct{ namespace, address string }

func (d *datagrams) ask(ctx context.Context) error {
	conn, err := dialIn(ctx, d.namespace, "udp", d.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	answer := make([]byte, 16)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if string(answer[:n]) != "ok\n" {
		return errors.New("answer is " + string(answer[:n]))
	}
	return nil
}

func (d *datagrams) close() {}
