package containerd

import (
	"bytes"
	"errors"
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

// The streams of a container, as indices.
const (
	stdout = iota
	stderr
)

var streamNames = [2]string{"stdout", "stderr"}

// logFile writes a container's log in the format of the container runtime interface, a line for each line of output:
//
//	2026-01-02T15:04:05.999999999Z stdout F the text
//
// F is a full line; P is a part of one that goes on in the next line of the same stream. What it writes comes from the spools of
// the container's two streams; what has no end of line yet waits there.
type logFile struct {
	path    string
	slog    *slog.Logger
	entries *sync.Pool // *[]byte: room for what is to be written, shared by all logs. A quiet one has none.

	mu      sync.Mutex
	file    *os.File
	size    int64
	spools  [2]*spool
	journal journal
	broken  bool // The last write failed: said once, not for every line.
}

// openLog opens or continues the log at path, with its spools and journal in dir. An empty path throws the output away.
func openLog(path, dir string, entries *sync.Pool, log *slog.Logger) (l *logFile, err error) {
	l = &logFile{path: path, entries: entries, slog: log}
	defer func() {
		if err != nil {
			l.release()
		}
	}()
	for i, name := range streamNames {
		if l.spools[i], err = openSpool(spoolFile(dir, name)); err != nil {
			return nil, err
		}
	}
	var n *note
	if l.journal, n, err = openJournal(journalFile(dir)); err != nil {
		return nil, err
	}
	if n != nil {
		for i, s := range l.spools {
			s.logged = n.Logged[i]
		}
	}
	if path == "" {
		return l, nil
	}
	if err := errors.Join(cutBack(path, n), os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
		return nil, err
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, l.note()
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

// take logs the lines among what was taken into the stream's spool and is not in the log yet, and returns all of that. It is
// read into buffer. With all, what has no end of line is logged too. An error is reported, but it does not stop the
// container: its output is lost then.
func (l *logFile) take(stream int, buffer []byte, all bool) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spools[stream]
	data, err := s.pending(buffer)
	if err != nil {
		return nil, fmt.Errorf("read the spool of %s: %w", l.path, err)
	}
	stamp := time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)
	out := l.entries.Get().(*[]byte)
	defer l.entries.Put(out)
	used := 0
	*out, used = appendCRI((*out)[:0], stamp, streamNames[stream], data)
	if rest := data[used:]; all && len(rest) > 0 {
		*out, used = appendEntry(*out, stamp, streamNames[stream], 'P', rest), len(data)
	}
	if used > 0 {
		s.logged += int64(used)
		l.flush(*out)
		s.free()
	}
	return data, nil
}

func (l *logFile) flush(entries []byte) {
	err := l.store(entries)
	switch {
	case err != nil && !l.broken:
		l.slog.Error("container output is lost", "log", l.path, "err", err)
	case err == nil && l.broken:
		l.slog.Info("container output is logged again", "log", l.path)
	}
	l.broken = err != nil
}

func (l *logFile) store(entries []byte) error {
	if l.path == "" {
		return l.note()
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return errors.Join(err, l.note())
		}
	}
	if _, err := l.file.Write(entries); err != nil { // The disk is full: no torn line may stay.
		return errors.Join(err, l.file.Truncate(l.size), l.note())
	}
	l.size += int64(len(entries))
	if err := l.note(); err != nil || l.size < maxLog {
		return err
	}
	return errors.Join(l.rotate(), l.note())
}

func (l *logFile) note() error {
	return l.journal.write(note{l.size, [2]int64{l.spools[stdout].logged, l.spools[stderr].logged}})
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

// release closes the files.
func (l *logFile) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	files := []*os.File{l.file, l.journal.file}
	for _, s := range l.spools {
		if s != nil {
			files = append(files, s.file)
		}
	}
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// appendCRI appends an entry to dst for each line of data, and for each beginning that is as long as a line may be. It says how
// much of data that is.
func appendCRI(dst, stamp []byte, stream string, data []byte) (out []byte, used int) {
	full := appendHead(nil, stamp, stream, 'F')
	for {
		line := data[used:]
		end := bytes.IndexByte(line, '\n')
		switch {
		case end > maxLine || end < 0 && len(line) > maxLine:
			dst = appendEntry(dst, stamp, stream, 'P', line[:maxLine])
			used += maxLine
		case end >= 0:
			dst = append(dst, full...)
			dst = append(dst, line[:end+1]...)
			used += end + 1
		default:
			return dst, used
		}
	}
}

func appendEntry(dst, stamp []byte, stream string, tag byte, text []byte) []byte {
	dst = appendHead(dst, stamp, stream, tag)
	dst = append(dst, text...)
	return append(dst, '\n')
}

func appendHead(dst, stamp []byte, stream string, tag byte) []byte {
	dst = append(dst, stamp...)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	return append(dst, ' ', tag, ' ')
}
