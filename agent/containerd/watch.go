package containerd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// WatchImages imports the tars in dir: at first those that were not imported as they are, then each one as soon as it is
// completely written or moved there. ready is called when the first are done. A file that can't be imported is logged and
// skipped, and tried again after a restart; one that there was no room for, or no daemon, every half a minute. Files whose names begin with
// a dot are left alone: many programs write those first and rename them. It blocks until ctx ends.
func (r *Runtime) WatchImages(ctx context.Context, dir string, ready func()) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Watch first and look then, so that no file falls between.
	watch, err := watchDir(dir)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	stop := context.AfterFunc(ctx, func() { watch.Close() })
	defer stop()
	defer watch.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	waiting := r.importAll(ctx, dir, names)
	ready()
	buffer := make([]byte, 64<<10)
	for {
		var again time.Time // Never, where none waits.
		if len(waiting) > 0 {
			again = time.Now().Add(importRetry)
		}
		if err := watch.SetReadDeadline(again); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		n, err := watch.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		waiting = r.importAll(ctx, dir, append(waiting, writtenFiles(buffer[:max(n, 0)])...))
	}
}

// importRetry is how long after an image could not be imported for want of room or of a daemon it is tried again.
const importRetry = 30 * time.Second

// importAll imports files, and returns those that nothing is wrong with but that there was no room, or no daemon.
func (r *Runtime) importAll(ctx context.Context, dir string, names []string) (waiting []string) {
	for _, name := range names {
		err := r.importChanged(ctx, filepath.Join(dir, name))
		if (errors.Is(err, agent.ErrNoRoom) || errdefs.IsUnavailable(err)) && !slices.Contains(waiting, name) {
			waiting = append(waiting, name)
		}
	}
	return waiting
}

func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		watch.Close()
		return nil, err
	}
	return watch, nil
}

// writtenFiles reads the names out of inotify's events, each once.
func writtenFiles(events []byte) (names []string) {
	seen := map[string]bool{}
	for len(events) >= unix.SizeofInotifyEvent {
		size := int(binary.NativeEndian.Uint32(events[12:])) // The name's, with the zeros that pad it.
		end := min(unix.SizeofInotifyEvent+size, len(events))
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
		if name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
		events = events[end:]
	}
	return names
}

// importChanged imports a file unless an image says that it came from it as it is now. Its error has been logged.
func (r *Runtime) importChanged(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || ctx.Err() != nil {
		return nil
	}
	if err != nil {
		r.log.Error("image file skipped", "file", path, "err", err)
		return err
	}
	if !info.Mode().IsRegular() || strings.HasPrefix(info.Name(), ".") {
		return nil
	}
	label := fmt.Sprintf("%s %d %d", info.Name(), info.Size(), info.ModTime().UnixNano())
	known, err := r.client.ListImages(r.in(ctx), fmt.Sprintf("labels.%q==%q", labelImageFile, label))
	if err == nil && len(known) > 0 {
		return nil
	}
	start := time.Now()
	names, err := r.importFile(ctx, path, map[string]string{labelImageFile: label})
	if err != nil {
		if ctx.Err() == nil {
			r.log.Error("image file skipped", "err", err)
		}
		return err
	}
	r.log.Info("images imported", "file", path, "images", names, "took", time.Since(start).Round(time.Millisecond))
	return nil
}
