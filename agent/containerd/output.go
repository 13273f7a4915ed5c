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
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize   = 64 << 10
	slowClient = 10 * time.Second // An attached client that takes nothing for so long is cut off.
	drainTime  = time.Second      // For the rest of an ended container's output.
)

// output reads what a container writes, logs it, and gives it to attached clients.
type output struct {
	buffers *sync.Pool
	log     *logFile
	files   []*os.File
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
	p := &pipes{}
	var err error
	dir := r.containerDir(id)
	if p.stdout, err = openOutput(filepath.Join(dir, "stdout")); err != nil {
		return err
	}
	if p.stderr, err = openOutput(filepath.Join(dir, "stderr")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.closeOutputs()
		return err
	}
	return r.readPipes(id, p, logPath)
}

// readPipes starts the readers of a container's output. They end with the container, or when the output is closed.
func (r *Runtime) readPipes(id string, p *pipes, logPath string) error {
	log, err := openLog(logPath, r.log)
	if err != nil {
		p.closeOutputs()
		return fmt.Errorf("open log: %w", err)
	}
	o := &output{buffers: &r.buffers, log: log, done: make(chan struct{}), clients: map[*listener]bool{}}
	var readers sync.WaitGroup
	for i, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			o.files = append(o.files, f)
			readers.Go(func() { o.read(f, i == 1) })
		}
	}
	go func() {
		readers.Wait()
		log.close()
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

// read copies one stream until its end. A buffer is taken only when there is something to read, so that a quiet
// container costs none.
func (o *output) read(f *os.File, stderr bool) {
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	for more := true; more; {
		err := conn.Read(func(fd uintptr) bool {
			buffer := o.buffers.Get().(*[]byte)
			defer o.buffers.Put(buffer)
			n, err := unix.Read(int(fd), *buffer)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				return false
			}
			if n > 0 {
				o.deliver(stderr, (*buffer)[:n])
			}
			more = err == nil && n > 0
			return true
		})
		more = more && err == nil
	}
}

// deliver logs data and passes copies to the clients.
func (o *output) deliver(stderr bool, data []byte) {
	o.log.write(stderr, data)
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
func (o *output) drain(ctx context.Context) {
	select {
	case <-o.done:
	case <-time.After(drainTime):
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
