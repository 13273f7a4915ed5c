package gather

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a connection of a Listener over one that holds nothing by itself, and its client's end. The connection counts how
// often it is written to.
func pipe(t *testing.T) (c *conn, client net.Conn, socket *counted, l *Listener) {
	t.Helper()
	server, client := net.Pipe()
	socket = &counted{Conn: server}
	l = NewListener(one{socket})
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return accepted.(*conn), client, socket, l
}

// one is a listener that accepts this connection.
type one struct{ net.Conn }

func (o one) Accept() (net.Conn, error) { return o.Conn, nil }
func (o one) Addr() net.Addr            { return o.LocalAddr() }

type counted struct {
	net.Conn
	writes atomic.Int32
	closed atomic.Bool
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func (c *counted) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("Write took %d of %d bytes: %v", n, len(text), err)
	}
}

func wantText(t *testing.T, from io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Fatalf("read %.40q (%d of %d bytes): %v", got[:n], n, len(want), err)
	}
}

// record is a length that gathers.
const record = room / 8

// fill writes what there is room for: a record that is being sent, and a buffer full of them.
func fill(t *testing.T, c net.Conn) (written string) {
	t.Helper()
	for i := range 1 + room/record {
		text := strings.Repeat(string(rune('a'+i)), record)
		write(t, c, text)
		written += text
		synctest.Wait()
	}
	return written
}

func TestWritesGatherWhileOneIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, socket, _ := pipe(t)
		var want string
		for i := range 100 {
			text := fmt.Sprintf("record %d;", i)
			write(t, c, text)
			want += text
			synctest.Wait() // The first is under way.
		}
		wantText(t, client, want)
		synctest.Wait()
		if writes := socket.writes.Load(); writes != 2 {
			t.Errorf("%d writes to the socket, want one for the first record and one for the others", writes)
		}
		if c.sending || c.gathered != nil {
			t.Error("a silent connection has a goroutine or a buffer")
		}
		write(t, c, "later")
		wantText(t, client, "later")
		c.Close()
	})
}

func TestClientThatDoesNotReadMakesWritesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, _, _ := pipe(t)
		full := fill(t, c)
		if err := c.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if n, err := c.Write([]byte("y")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("without room: %d bytes, error %v", n, err)
		}
		if waited := time.Since(start); waited != time.Hour {
			t.Errorf("the deadline of an hour had passed after %v", waited)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		wrote := make(chan error)
		go func() {
			_, err := c.Write([]byte("z"))
			wrote <- err
		}()
		wantText(t, client, full[:record])
		if err := <-wrote; err != nil {
			t.Errorf("with room: %v", err)
		}
		wantText(t, client, full[record:]+"z")
		c.Close()
	})
}

func TestDeadlineEndsWritesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, _, _ := pipe(t)
		wrote := make(chan error)
		go func() {
			for {
				if _, err := c.Write(make([]byte, record)); err != nil {
					wrote <- err
					return
				}
			}
		}()
		synctest.Wait()
		_ = c.SetWriteDeadline(time.Now())
		if err := <-wrote; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		client.Close()
		c.Close()
	})
}

func TestWhatWasWrittenIsSentBehindClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, socket, l := pipe(t)
		write(t, c, "first ")
		synctest.Wait()
		write(t, c, "second")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("third")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write behind Close: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read behind Close: %v", err)
		}
		var drained atomic.Bool
		go func() {
			l.Drain(context.Background())
			drained.Store(true)
		}()
		synctest.Wait()
		if drained.Load() {
			t.Error("Drain does not wait")
		}
		if all, err := io.ReadAll(client); err != nil || string(all) != "first second" {
			t.Errorf("read %q: %v", all, err)
		}
		time.Sleep(2 * recheck)
		synctest.Wait()
		if !drained.Load() || !socket.closed.Load() {
			t.Errorf("drained: %t, closed: %t", drained.Load(), socket.closed.Load())
		}
	})
}

func TestCloseOfWhatIsStuck(t *testing.T) {
	for name, after := range map[string]time.Duration{"a write waits": 0, "no write waits": lastSend} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, socket, _ := pipe(t)
				wrote := make(chan error, 1)
				fill(t, c)
				if after == 0 {
					go func() {
						_, err := c.Write([]byte("waits"))
						wrote <- err
					}()
					synctest.Wait()
				}
				c.Close()
				if after == 0 {
					if err := <-wrote; !errors.Is(err, net.ErrClosed) {
						t.Errorf("the write that waited: %v", err)
					}
				} else {
					time.Sleep(after - time.Nanosecond)
					synctest.Wait()
					if socket.closed.Load() {
						t.Error("it was closed early")
					}
					time.Sleep(time.Nanosecond)
				}
				synctest.Wait()
				if !socket.closed.Load() {
					t.Error("it is not closed")
				}
			})
		})
	}
}

func TestLongWritesAreNotGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, socket, _ := pipe(t)
		write(t, c, "short")
		synctest.Wait()
		text := strings.Repeat("x", long)
		var wrote atomic.Bool
		go func() {
			write(t, c, text)
			wrote.Store(true)
		}()
		wantText(t, client, "short"+text[1:])
		synctest.Wait()
		if wrote.Load() {
			t.Error("Write does not wait for the socket")
		}
		write(t, c, "behind it") // While the last byte is not read.
		wantText(t, client, "xbehind it")
		synctest.Wait()
		if writes := socket.writes.Load(); writes != 3 || !wrote.Load() {
			t.Errorf("%d writes to the socket, want 3; ended: %t", writes, wrote.Load())
		}
		c.Close()
	})
}

func TestWhatEndsALongWrite(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c net.Conn)
		want error
	}{
		{"deadline", func(c net.Conn) { _ = c.SetWriteDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded},
		{"close", func(c net.Conn) { c.Close() }, net.ErrClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, client, socket, _ := pipe(t)
				wrote := make(chan error)
				go func() {
					_, err := c.Write(make([]byte, long))
					wrote <- err
				}()
				synctest.Wait()
				write(t, c, "behind it")
				tc.end(c)
				if err := <-wrote; !errors.Is(err, tc.want) {
					t.Errorf("error %v", err)
				}
				if _, err := c.Write([]byte("next")); !errors.Is(err, tc.want) {
					t.Errorf("of the next Write: %v", err)
				}
				c.Close()
				synctest.Wait()
				if !socket.closed.Load() {
					t.Error("it is not closed")
				}
				if all, err := io.ReadAll(client); err != nil || len(all) > 0 {
					t.Errorf("the client reads %q: %v", all, err)
				}
			})
		})
	}
}

func TestErrorOfASendReachesTheNextWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client, socket, _ := pipe(t)
		write(t, c, "sent into the void")
		client.Close()
		synctest.Wait()
		if _, err := c.Write([]byte("next")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error %v", err)
		}
		c.Close()
		if !socket.closed.Load() {
			t.Error("it is not closed")
		}
	})
}

// TestServerBehindIt has net/http use it as the API server does: many streams of one connection, and a connection that is
// taken over.
func TestServerBehindIt(t *testing.T) {
	const streams, events = 50, 40
	var all sync.WaitGroup // The watches begin together, so that their events come together.
	all.Add(streams)
	event := append(bytes.Repeat([]byte("event"), 1000), '\n')
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.URL.Path == "/upgrade" {
			echo(control)
			return
		}
		all.Done()
		all.Wait()
		for range events {
			_, _ = w.Write(event)
			_ = control.Flush()
		}
	}))
	web.Listener = NewListener(web.Listener)
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()

	var group sync.WaitGroup
	for range streams {
		group.Go(func() {
			resp, err := web.Client().Get(web.URL)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || resp.ProtoMajor != 2 || !bytes.Equal(got, bytes.Repeat(event, events)) {
				t.Errorf("%s: %d bytes, want %d of them: %v", resp.Proto, len(got), events*len(event), err)
			}
		})
	}
	group.Wait()

	transport := web.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	transport.ForceAttemptHTTP2 = false
	transport.TLSClientConfig.NextProtos = slices.DeleteFunc(transport.TLSClientConfig.NextProtos, func(p string) bool { return p == "h2" })
	req, err := http.NewRequest(http.MethodGet, web.URL+"/upgrade", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("answered %s", resp.Status)
	}
	defer stream.Close()
	for i := range 100 {
		line := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(stream, line); err != nil {
			t.Fatal(err)
		}
		wantText(t, stream, line)
	}
	if _, err := io.WriteString(stream, "end\n"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(stream); err != nil || string(rest) != "goodbye" {
		t.Errorf("the end is %q: %v", rest, err)
	}
}

// echo takes the connection over, and sends lines back until one is "end".
func echo(control *http.ResponseController) {
	conn, buffered, err := control.Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	for lines := bufio.NewScanner(buffered); lines.Scan() && lines.Text() != "end"; {
		_, _ = fmt.Fprintln(conn, lines.Text())
	}
	_, _ = io.WriteString(conn, "goodbye")
}
