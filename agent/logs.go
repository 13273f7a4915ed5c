package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Bounds of what is read of a container's words.
const (
	maxLogLine         = 1 << 20   // A line of a log file, longer than any that a runtime writes (16 KiB and a head).
	maxMessage         = 4096      // A termination message.
	maxMessages        = 12 << 10  // Those of a pod together: each container has an equal share of it.
	maxFallbackLines   = 80        // Of the log, where the message may be taken from there.
	maxFallbackMessage = 2048      // Bytes, likewise.
	tailBlock          = 64 * 1024 // How much of a file's end is read at once to find its last lines.
)

// logOptions say which part of a log is wanted, and how. The zero value is all of it.
type logOptions struct {
	follow     bool
	timestamps bool
	since      time.Time
	tail       int64  // Lines; negative: all. The zero value means none: set it.
	limit      int64  // Bytes written; 0: no limit.
	stream     string // "stdout", "stderr" or "": both.
}

var errLimit = errors.New("as many bytes as were asked for are written")

// makeLog makes an empty log, so that it can be read and followed before the container has said anything.
func makeLog(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a container's log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("make a container's log: %w", err)
	}
	return f.Close()
}

// readLog copies the log file at path to out. When following it goes on until ctx ends, or until alive says that the container
// has ended and the rest is read. alive returns a channel that is closed when it is worth to be asked again.
func readLog(ctx context.Context, path string, o logOptions, out io.Writer, alive func(context.Context) (bool, <-chan struct{})) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if err := seekTail(f, o.tail); err != nil {
		return fmt.Errorf("find the last lines of %s: %w", path, err)
	}
	w := &logWriter{out: out, options: o}
	if !o.follow {
		return w.copyLines(&lineReader{r: f})
	}
	watch, err := watchFile(path)
	if err != nil {
		return err
	}
	defer watch.close()
	lines := &lineReader{r: f}
	for {
		running, ended := alive(ctx) // Asked before the file is read to its end, so that no last word is missed.
		if err := w.copyLines(lines); err != nil {
			return err
		}
		if flusher, ok := out.(interface{ Flush() }); ok {
			flusher.Flush()
		}
		next, err := reopened(f, path)
		if err != nil {
			return err
		}
		if next != nil { // Rotated: what was written before the rename has been read.
			if err := w.copyLines(lines); err != nil {
				return err
			}
			f.Close()
			f, lines = next, &lineReader{r: next}
			continue
		}
		if !running || !watch.wait(ctx, ended) {
			return nil
		}
	}
}

// reopened opens path again if it is not f any more.
func reopened(f *os.File, path string) (*os.File, error) {
	mine, err := f.Stat()
	if err != nil {
		return nil, err
	}
	now, err := os.Stat(path)
	if err != nil || os.SameFile(mine, now) {
		return nil, nil // Just renamed, or removed with its pod: what there will be, the watch will tell.
	}
	return os.Open(path)
}

// seekTail puts f before its last n lines.
func seekTail(f *os.File, n int64) error {
	if n < 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	buffer := make([]byte, tailBlock)
	newlines := int64(0)
	for pos := end; pos > 0; {
		size := min(pos, tailBlock)
		pos -= size
		if _, err := f.ReadAt(buffer[:size], pos); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buffer[i] != '\n' || pos+i == end-1 {
				continue
			}
			if newlines++; newlines == n {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// lineReader reads whole lines and keeps a half one until the rest of it is there.
type lineReader struct {
	r    io.Reader
	buf  *bufio.Reader
	half []byte
}

// next returns the next line with its newline, or io.EOF. The line is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	if l.buf == nil {
		l.buf = bufio.NewReaderSize(l.r, 64*1024)
	}
	for {
		part, err := l.buf.ReadSlice('\n')
		if len(l.half)+len(part) > maxLogLine {
			return nil, fmt.Errorf("a log line is longer than %d bytes", maxLogLine)
		}
		if err == nil && len(l.half) == 0 {
			return part, nil
		}
		l.half = append(l.half, part...)
		if err == nil {
			line := l.half
			l.half = nil
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

// logWriter picks and formats lines.
type logWriter struct {
	out     io.Writer
	options logOptions
	written int64
}

// copyLines copies what is there. It returns nil at the end of the file.
func (w *logWriter) copyLines(lines *lineReader) error {
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a log: %w", err)
		}
		if err := w.write(line); err != nil {
			return err
		}
	}
}

// write writes one line of the file, `TIME STREAM TAG CONTENT\n`. Tag P means that the container's own line goes on in the next.
func (w *logWriter) write(line []byte) error {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) < 4 {
		return nil // Not in the format: nothing that a container said.
	}
	stamp, stream, tag, content := fields[0], fields[1], fields[2], fields[3]
	if w.options.stream != "" && string(stream) != w.options.stream {
		return nil
	}
	if !w.options.since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err != nil || at.Before(w.options.since) {
			return nil
		}
	}
	if string(tag) == "P" {
		content = bytes.TrimSuffix(content, []byte("\n"))
	}
	if w.options.timestamps {
		content = append(append(bytes.Clone(stamp), ' '), content...)
	}
	if left := w.options.limit - w.written; w.options.limit > 0 && int64(len(content)) >= left {
		if _, err := w.out.Write(content[:left]); err != nil {
			return err
		}
		return errLimit
	}
	n, err := w.out.Write(content)
	w.written += int64(n)
	return err
}

// terminationMessage is what an ended container left as its last words: in its message file or, where its policy says so and it
// failed without, at the end of its log.
func (a *Agent) terminationMessage(pod *v1.Pod, c *Container) string {
	containers := allContainers(&pod.Spec)
	longest := maxMessages / max(1, len(containers))
	message := readEnd(a.dirs.message(pod.UID, c.Name, c.Attempt), maxMessage)
	if message != "" || c.ExitCode == 0 {
		return message[:min(len(message), longest)]
	}
	for _, spec := range containers {
		if spec.Name == c.Name && spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
			var tail bytes.Buffer
			if err := readLog(context.Background(), c.LogPath, logOptions{tail: maxFallbackLines}, &tail, nil); err != nil {
				return ""
			}
			message = string(tail.Bytes()[max(0, tail.Len()-maxFallbackMessage):])
			return message[:min(len(message), longest)]
		}
	}
	return ""
}

// readEnd reads the end of a file that a container may have written. It follows no link and waits for nothing.
func readEnd(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	end, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
	if err != nil {
		return ""
	}
	return string(end)
}
