package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fileWatch tells when a file has grown, or when another has taken its name. It is inotify on the file's directory, so that
// it sees both.
type fileWatch struct {
	events *os.File
	grown  chan struct{} // Closed when no more will come.
}

func watchFile(path string) (*fileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	events := os.NewFile(uintptr(fd), "inotify") // Non-blocking: reads wait in the runtime's poller and end with Close.
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_DELETE_SELF); err != nil {
		events.Close()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w := &fileWatch{events: events, grown: make(chan struct{}, 1)}
	go w.read()
	return w, nil
}

// read turns what the kernel tells into at most one pending wake-up. It ends when the watch is closed.
func (w *fileWatch) read() {
	defer close(w.grown)
	buffer := make([]byte, 4096)
	for {
		n, err := w.events.Read(buffer)
		if err != nil || n <= 0 {
			return
		}
		select {
		case w.grown <- struct{}{}:
		default:
		}
	}
}

// wait returns when the file may have grown or ended is closed; false when ctx has ended or the watch is gone.
func (w *fileWatch) wait(ctx context.Context, ended <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-ended:
		return true
	case _, ok := <-w.grown:
		if ok {
			pause(ctx, batchPause)
		}
		return ok
	}
}

// batchPause lets a busy writer fill more than a line before the reader looks again.
const batchPause = 5 * time.Millisecond

func (w *fileWatch) close() {
	w.events.Close()
	for range w.grown { // Until read has ended.
	}
}
