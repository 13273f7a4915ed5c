package containerd

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	maxLine  = 16 << 10 // A longer line is logged in parts.
	maxLog   = 10 << 20 // Kubernetes' containerLogMaxSize.
	logFiles = 5        // Kubernetes' containerLogMaxFiles: 0.log, 0.log.1 (the younger) to 0.log.4.
)

// logFile writes a container's log in the format of the container runtime interface, a line for each line of output:
//
//	2026-01-02T15:04:05.999999999Z stdout F the text
//
// F is a full line; P is a part of one that goes on in the next line of the same stream.
type logFile struct {
	path string
	slog *slog.Logger

	mu      sync.Mutex
	file    *os.File
	size    int64
	partial [2][]byte // Of stdout and stderr: what waits for its end of line.
	out     []byte
	broken  bool // The last write failed: said once, not for every line.
}

// openLog opens or continues the log at path. An empty path throws the output away.
func openLog(path string, log *slog.Logger) (*logFile, error) {
	l := &logFile{path: path, slog: log}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// write logs the lines in data. An error is reported, but it does not stop the container: its output is lost then.
func (l *logFile) write(stderr bool, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		return
	}
	stream, name := 0, "stdout"
	if stderr {
		stream, name = 1, "stderr"
	}
	stamp := time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)
	l.out, l.partial[stream] = appendCRI(l.out[:0], stamp, name, l.partial[stream], data)
	l.flush()
}

func (l *logFile) flush() {
	if len(l.out) == 0 {
		return
	}
	err := l.store()
	if err != nil && !l.broken {
		l.slog.Error("container output is lost", "log", l.path, "err", err)
	}
	l.broken = err != nil
	if cap(l.out) > readSize*2 {
		l.out = nil // A burst of short lines; do not keep its memory.
	}
}

func (l *logFile) store() error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(l.out)
	l.size += int64(n)
	if err != nil {
		return err
	}
	if l.size < maxLog {
		return nil
	}
	return l.rotate()
}

// rotate moves every file one on and begins a new one.
func (l *logFile) rotate() error {
	l.file.Close()
	l.file = nil
	for i := logFiles - 2; i > 0; i-- {
		if err := os.Rename(numbered(l.path, i), numbered(l.path, i+1)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.Rename(l.path, numbered(l.path, 1)); err != nil {
		return err
	}
	return l.open()
}

func numbered(path string, i int) string { return fmt.Sprintf("%s.%d", path, i) }

// close logs what has no end of line yet and closes the file.
func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	stamp := time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)
	l.out = l.out[:0]
	for stream, name := range []string{"stdout", "stderr"} {
		if rest := l.partial[stream]; len(rest) > 0 {
			l.out = appendEntry(l.out, stamp, name, 'P', rest)
			l.partial[stream] = nil
		}
	}
	l.flush()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// appendCRI appends an entry to dst for each line of partial and data, and returns what is left without an end.
func appendCRI(dst, stamp []byte, stream string, partial, data []byte) (out, rest []byte) {
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			end = len(data)
		}
		room := maxLine - len(partial)
		switch {
		case end > room:
			dst = appendEntry(dst, stamp, stream, 'P', partial, data[:room])
			data = data[room:]
		case end < len(data):
			dst = appendEntry(dst, stamp, stream, 'F', partial, data[:end])
			data = data[end+1:]
		case len(data) == 0 && len(partial) == 0:
			return dst, nil
		default:
			return dst, append(partial, data...)
		}
		partial = nil
	}
}

func appendEntry(dst, stamp []byte, stream string, tag byte, parts ...[]byte) []byte {
	dst = append(dst, stamp...)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	dst = append(dst, ' ', tag, ' ')
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return append(dst, '\n')
}
