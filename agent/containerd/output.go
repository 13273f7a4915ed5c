package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize   = 64 << 10
	slowClient = 10 * time.Second // An attached client that takes nothing for so long is cut off.
	drainTime  = 2 * time.Second  // For the rest of an ended container's output.

	noRoomPause = time.Second // Where there is no room under RunDir, until that is looked at again,
	noRoomTries = 10          // and how often, before output is thrown away: nobody may have to wait for ever.
)

// output reads what a container writes, logs it, and gives it to attached clients.
type output struct {
	buffers *sync.Pool
	log     *logFile
	files   []*os.File
	pause   time.Duration // See noRoomPause.
	done    chan struct{} // Closed when all is read and in the log.

	mu      sync.Mutex
	clients map[*listener]bool
}

// listener is an attached client. Its channel holds what it has not taken yet.
type listener struct {
	chunks chan chunk
	cut    chan struct{} // Closed when it was too slow.
}

type chunk struct {
	stderr bool
	data   []byte
}

var errSlowClient = errors.New("attached client is too slow")

// readOutput goes on reading the FIFOs of a container that an earlier process started.
func (r *Runtime) readOutput(id, logPath string) error {
	p := &pipes{dir: r.containerDir(id)}
	var err error
	if p.stdout, err = openOutput(filepath.Join(p.dir, "stdout")); err != nil {
		return err
	}
	if p.stderr, err = openOutput(filepath.Join(p.dir, "stderr")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.closeOutputs()
		return err
	}
	return r.connect(id, p, logPath)
}

// connect has a container's output held from here on, and read.
func (r *Runtime) connect(id string, p *pipes, logPath string) error {
	if err := r.holder.hold(id, p.stdout, p.stderr); err != nil {
		p.closeOutputs()
		return err
	}
	return r.readPipes(id, p, logPath)
}

// readPipes starts the readers of a container's output. They end with the container, or when the output is closed.
func (r *Runtime) readPipes(id string, p *pipes, logPath string) error {
	log, err := openLog(logPath, p.dir, &r.entries, r.log)
	if err != nil {
		p.closeOutputs()
		return fmt.Errorf("open log: %w", err)
	}
	o := &output{buffers: &r.buffers, log: log, pause: noRoomPause, done: make(chan struct{}), clients: map[*listener]bool{}}
	var readers sync.WaitGroup
	for stream, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			o.files = append(o.files, f)
			readers.Go(func() {
				if err := o.read(f, stream); err != nil {
					r.log.Error("a container's output is lost", "container", id, "err", err)
				}
			})
		}
	}
	go func() {
		readers.Wait()
		log.release()
		close(o.done)
	}()
	r.mu.Lock()
	r.outputs[id] = o
	r.mu.Unlock()
	return nil
}

func (r *Runtime) output(id string) *output {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outputs[id]
}

// forget takes the output out of the list; its readers may still be at work.
func (r *Runtime) forget(id string) *output {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.outputs[id]
	delete(r.outputs, id)
	return o
}

// read logs one stream until its end, or until the file is closed. A buffer is taken only when there is something to read, so
// that a quiet container costs none.
func (o *output) read(f *os.File, stream int) error {
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := o.pass(stream, 0, false); err != nil { // What a killed process had taken.
		return err
	}
	full := 0 // How often in a row there was no room.
	for {
		var n int64
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			n, failed = o.log.spools[stream].take(int(fd), readSize)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case err != nil: // Closed: the next process goes on.
			return nil
		case errors.Is(failed, unix.ENOSPC): // The container waits, as if nobody read.
			if full++; full <= noRoomTries {
				time.Sleep(o.pause)
			} else if err := o.lose(conn, full == noRoomTries+1); err != nil {
				return nil
			}
			continue
		case errors.Is(failed, unix.EINTR):
			continue
		case failed != nil:
			return failed
		case n == 0:
			return o.pass(stream, 0, true)
		}
		full = 0
		if err := o.pass(stream, int(n), false); err != nil {
			return err
		}
	}
}

// lose throws away some of what waits in a FIFO, and says so if told to.
func (o *output) lose(fifo syscall.RawConn, say bool) error {
	buffer := o.buffers.Get().(*[]byte)
	defer o.buffers.Put(buffer)
	if say {
		o.log.slog.Error("container output is lost: there is no room for it on its way to the log", "log", o.log.path)
	}
	return fifo.Control(func(fd uintptr) { _, _ = unix.Read(int(fd), *buffer) }) // What there is.
}

// pass logs what a stream's spool has, and gives the last n bytes of it, the new ones, to the clients.
func (o *output) pass(stream, n int, all bool) error {
	buffer := o.buffers.Get().(*[]byte)
	defer o.buffers.Put(buffer)
	data, err := o.log.take(stream, *buffer, all)
	if err != nil {
		return err
	}
	o.deliver(stream == stderr, data[len(data)-n:])
	return nil
}

// deliver passes copies to the clients.
func (o *output) deliver(stderr bool, data []byte) {
	if len(data) == 0 {
		return
	}
	o.mu.Lock()
	clients := make([]*listener, 0, len(o.clients))
	for c := range o.clients {
		clients = append(clients, c)
	}
	o.mu.Unlock()
	for _, c := range clients {
		select {
		case c.chunks <- chunk{stderr, append([]byte(nil), data...)}:
		case <-time.After(slowClient):
			o.cutOff(c)
		}
	}
}

func (o *output) cutOff(c *listener) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clients[c] {
		delete(o.clients, c)
		close(c.cut)
	}
}

func (o *output) listen() *listener {
	c := &listener{chunks: make(chan chunk, 16), cut: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clients[c] = true
	return c
}

// leave ends listening. What is on its way is thrown away, so that no reader waits for a client that is gone.
func (o *output) leave(c *listener) {
	o.mu.Lock()
	delete(o.clients, c)
	o.mu.Unlock()
	for {
		select {
		case <-c.chunks:
		default:
			return
		}
	}
}

// drain waits a little for the end of the output.
func (o *output) drain(ctx context.Context, longest time.Duration) {
	select {
	case <-o.done:
	case <-time.After(longest):
	case <-ctx.Done():
	}
}

// close stops reading and finishes the log.
func (o *output) close() {
	for _, f := range o.files {
		f.Close()
	}
	<-o.done
}

// copyTo gives a listener's chunks to the writers until the output's end. A nil writer's are thrown away.
func (o *output) copyTo(ctx context.Context, c *listener, stdout, stderr io.Writer) error {
	for {
		select {
		case part := <-c.chunks:
			if err := part.writeTo(stdout, stderr); err != nil {
				return err
			}
		case <-c.cut:
			return errSlowClient
		case <-ctx.Done():
			return ctx.Err()
		case <-o.done:
			for len(c.chunks) > 0 {
				if err := (<-c.chunks).writeTo(stdout, stderr); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

func (c chunk) writeTo(stdout, stderr io.Writer) error {
	w := stdout
	if c.stderr {
		w = stderr
	}
	if w == nil {
		return nil
	}
	_, err := w.Write(c.data)
	return err
}
