package containerd

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/agent"
)

// testLog is a log whose spools a test fills by a pipe.
type testLog struct {
	*logFile
	t           *testing.T
	path, dir   string
	read, write *os.File
}

func newTestLog(t *testing.T) *testLog {
	t.Helper()
	dir := t.TempDir()
	l := &testLog{t: t, path: filepath.Join(dir, "pod", "0.log"), dir: dir}
	var err error
	if l.read, l.write, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	l.open()
	t.Cleanup(func() { l.release(); l.read.Close(); l.write.Close() })
	return l
}

// open is what a new process does after the last one was killed.
func (l *testLog) open() {
	l.t.Helper()
	var err error
	if l.logFile, err = openLog(l.path, l.dir, &sync.Pool{New: func() any { return new([]byte) }}, slog.Default()); err != nil {
		l.t.Fatal(err)
	}
}

// say takes text into a stream's spool, and no further.
func (l *testLog) say(stream int, text string) {
	l.t.Helper()
	if _, err := l.write.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
	for left := int64(len(text)); left > 0; {
		n, err := l.spools[stream].take(int(l.read.Fd()), readSize)
		if err != nil {
			l.t.Fatal(err)
		}
		left -= n
	}
}

func (l *testLog) take(stream int, all bool) {
	l.t.Helper()
	if _, err := l.logFile.take(stream, make([]byte, maxLine+readSize), all); err != nil {
		l.t.Fatal(err)
	}
}

// lines are what the log's files say, the oldest first.
func (l *testLog) lines() (lines []string) {
	files, _ := filepath.Glob(l.path + "*")
	slices.Sort(files)
	for _, file := range slices.Backward(files) {
		text, err := os.ReadFile(file)
		if err != nil {
			l.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			lines = append(lines, line[strings.IndexByte(line, ' ')+1:])
		}
	}
	return lines
}

// A log never takes more room than its files may have, and what is younger than that is all there, in order.
func TestLogRotation(t *testing.T) {
	l := newTestLog(t)
	line := strings.Repeat("x", 999) + "\n"
	for range 1600 { // 80 MB in lines of 1 kB.
		l.say(stdout, strings.Repeat(line, 50))
		l.take(stdout, false)
	}
	l.say(stderr, "no end of line")
	l.take(stderr, true)
	files, err := filepath.Glob(l.path + "*")
	if err != nil || len(files) != logFiles {
		t.Fatalf("there are %d files, want %d: %v %v", len(files), logFiles, files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Size() > maxLog+2<<20 {
			t.Errorf("%s: %v bytes (%v), want at most about %d", file, info.Size(), err, maxLog)
		}
	}
	text, err := os.ReadFile(l.path)
	if err != nil || !strings.HasSuffix(string(text), " stderr P no end of line\n") {
		t.Errorf("the newest file ends with %q (%v)", text[max(0, len(text)-80):], err)
	}
	var spool unix.Stat_t
	if err := unix.Stat(spoolFile(l.dir, "stdout"), &spool); err != nil || spool.Blocks*512 > 4*pageSize {
		t.Errorf("the spool occupies %d bytes (%v), want a page or two", spool.Blocks*512, err)
	}
}

// Whenever the process is killed, each line is in the log once: after it was taken, after it was written, after it was noted, and
// in the middle of a rotation.
func TestLogOfKilled(t *testing.T) {
	l := newTestLog(t)
	random := rand.New(rand.NewPCG(1, 2))
	pad := strings.Repeat("x", 40<<10)
	var want []string
	text := "" // Since the last end of line.
	for i := range 1000 {
		part := fmt.Sprintf("%d ", i)
		switch random.IntN(4) {
		case 0:
			part += "\n"
		case 1:
			part += pad + "\n"
		}
		l.say(stdout, part)
		if text += part; strings.HasSuffix(part, "\n") {
			for len(text) > maxLine+1 {
				want, text = append(want, "stdout P "+text[:maxLine]+"\n"), text[maxLine:]
			}
			want, text = append(want, "stdout F "+text), ""
		}
		switch random.IntN(4) {
		case 0:
			l.take(stdout, false)
		case 1: // Killed with the spool full.
			l.release()
			l.open()
			l.take(stdout, false)
		case 2: // Killed before the note.
			if _, err := l.file.WriteString("T stdout F written, but not noted\nT std"); err != nil {
				t.Fatal(err)
			}
			l.release()
			l.open()
			l.take(stdout, false)
		case 3: // Killed between rotating and noting that.
			l.take(stdout, false)
			if err := l.rotate(); err != nil {
				t.Fatal(err)
			}
			l.release()
			l.open()
		}
		for l.spools[stdout].taken-l.spools[stdout].logged > maxLine {
			l.take(stdout, false)
		}
		// Rotated away are the oldest: what is there must be the end of what was said.
		got := l.lines()
		if len(got) > len(want) || !slices.Equal(got, want[len(want)-len(got):]) {
			t.Fatalf("after %d parts the log is not the end of what was said:\n%.200q", i, got)
		}
	}
}

// Who sees that a container has ended finds all that it said in its log, however far behind the log is.
func testLastWords(t *testing.T, n *node) {
	config := n.start("late")
	n.waitLog("late", "stdout holding")
	log := n.runtime.output(config.ID).log
	log.mu.Lock() // Nothing gets into it.
	if err := n.runtime.Signal(t.Context(), config.ID, false); err != nil {
		t.Error(err)
	}
	n.eventually("the container ends", func() bool { return len(n.processesOf(config.ID)) == 0 })
	seen := make(chan string)
	go func() {
		for {
			c := n.container(config.ID)
			if c == nil || c.State == agent.Exited {
				seen <- strings.Join(n.log("late"), "\n")
				return
			}
		}
	}()
	early := ""
	select {
	case early = <-seen:
	case <-time.After(100 * time.Millisecond):
	}
	log.mu.Unlock()
	if early == "" {
		early = <-seen
	}
	if !strings.Contains(early, "stdout stopped by") {
		t.Errorf("when the container's end is seen, its log is %q", early)
	}
	n.end(config.ID)
}
