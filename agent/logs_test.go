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
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReadLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	const text = "2030-01-01T12:00:01Z stdout F one\n" +
		"2030-01-01T12:00:02Z stderr F two\n" +
		"2030-01-01T12:00:03Z stdout P thr\n" +
		"2030-01-01T12:00:03Z stdout F ee\n" +
		"2030-01-01T12:00:04Z stdout F four\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2030, 1, 1, 12, 0, 3, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		options logOptions
		want    string
	}{
		{"all", logOptions{tail: -1}, "one\ntwo\nthree\nfour\n"},
		{"the last line", logOptions{tail: 1}, "four\n"},
		{"more lines than there are", logOptions{tail: 100}, "one\ntwo\nthree\nfour\n"},
		{"no line", logOptions{tail: 0}, ""},
		{"since", logOptions{tail: -1, since: at}, "three\nfour\n"},
		{"one stream", logOptions{tail: -1, stream: "stderr"}, "two\n"},
		{"timestamps", logOptions{tail: 1, timestamps: true}, "2030-01-01T12:00:04Z four\n"},
		{"a few bytes", logOptions{tail: -1, limit: 6}, "one\ntw"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := readLog(t.Context(), path, tc.options, &out, nil); err != nil && !errors.Is(err, errLimit) {
				t.Fatal(err)
			}
			if out.String() != tc.want {
				t.Errorf("got %q, want %q", out.String(), tc.want)
			}
		})
	}
}

func TestTailOfALongLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var log, want strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&log, "2030-01-01T12:00:01Z stdout F line %d\n", i)
		if i >= 5000 {
			fmt.Fprintf(&want, "line %d\n", i)
		}
	}
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := readLog(t.Context(), path, logOptions{tail: 5000}, &out, nil); err != nil || out.String() != want.String() {
		t.Errorf("got %d bytes (%v), want the last 5000 lines, %d bytes", out.Len(), err, want.Len())
	}
}

// A reader that follows gets every line once, though the file is rotated under it, and ends with the container.
func TestFollowThroughRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	alive := func(context.Context) (bool, <-chan struct{}) {
		select {
		case <-ended:
			return false, nil
		default:
			return true, ended
		}
	}
	out, in := io.Pipe()
	go func() {
		in.CloseWithError(readLog(t.Context(), path, logOptions{tail: -1, follow: true}, in, alive))
	}()
	lines := bufio.NewScanner(out)
	appendLine(t, path, "hello")
	if !lines.Scan() || lines.Text() != "hello" {
		t.Fatalf("read %q (%v), want hello", lines.Text(), lines.Err())
	}
	for rotation := range 5 {
		const half = 500
		for i := range 2 * half {
			if i == half {
				if err := os.Rename(path, fmt.Sprintf("%s.%d", path, rotation)); err != nil {
					t.Fatal(err)
				}
			}
			appendLine(t, path, fmt.Sprintf("rotation %d line %d", rotation, i))
		}
		for i := range 2 * half {
			want := fmt.Sprintf("rotation %d line %d", rotation, i)
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("read %q (%v), want %q", lines.Text(), lines.Err(), want)
			}
		}
	}
	close(ended)
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the end: %q (%v), want nothing", lines.Text(), lines.Err())
	}
}

func appendLine(t *testing.T, path, line string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "2030-01-01T12:00:01Z stdout F %s\n", line); err != nil {
		t.Fatal(err)
	}
}

// The last words of a container are the end of what it left, and those of a pod's containers share a bound.
func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	a := &Agent{dirs: dirs{data: dir}}
	log := filepath.Join(dir, "0.log")
	var said strings.Builder
	for i := range 100 {
		fmt.Fprintf(&said, "2030-01-01T12:00:01Z stdout F line %d\n", i)
	}
	if err := os.WriteFile(log, []byte(said.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxMessage) + "the end"
	for _, tc := range []struct {
		name       string
		left       string
		policy     v1.TerminationMessagePolicy
		code       int
		containers int
		want       string
	}{
		{"what was left", "bye", v1.TerminationMessageReadFile, 0, 1, "bye"},
		{"the end of much", long, v1.TerminationMessageReadFile, 1, 1, long[len(long)-maxMessage:]},
		{"a share of what a pod may leave", long, v1.TerminationMessageReadFile, 1, 6, strings.Repeat("x", maxMessages/6)},
		{"nothing", "", v1.TerminationMessageReadFile, 1, 1, ""},
		{"the log, of one that failed", "", v1.TerminationMessageFallbackToLogsOnError, 1, 1, logLines(20, 100)},
		{"not of one that did not", "", v1.TerminationMessageFallbackToLogsOnError, 0, 1, ""},
		{"what was left before the log", "bye", v1.TerminationMessageFallbackToLogsOnError, 1, 1, "bye"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid"}}
			for i := range tc.containers {
				pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: fmt.Sprint("app", i), TerminationMessagePolicy: tc.policy})
			}
			file := a.dirs.message("uid", "app0", 0)
			if err := makeMessageFile(file); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(tc.left), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := a.terminationMessage(pod, &Container{Name: "app0", ExitCode: tc.code, LogPath: log}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func logLines(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}
