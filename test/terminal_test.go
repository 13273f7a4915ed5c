package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal is a person at a keyboard in front of one command.
type terminal struct {
	t     testing.TB
	line  string
	file  *os.File
	cmd   *exec.Cmd
	ended chan struct{} // Closed when nothing more comes.

	mu   sync.Mutex
	text []byte // On the screen, and not seen yet.
}

// terminal starts a command line with a terminal of 80 columns and 24 rows.
func (s *shell) terminal(line string) *terminal {
	s.t.Helper()
	cmd := s.command("exec " + line)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
	term := &terminal{t: s.t, line: line, file: file, cmd: cmd, ended: make(chan struct{})}
	go term.read()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // It has ended, unless the test failed.
		<-term.ended
		file.Close()
	})
	return term
}

func (term *terminal) read() {
	defer close(term.ended)
	buffer := make([]byte, 4096)
	for {
		n, err := term.file.Read(buffer)
		term.mu.Lock()
		term.text = append(term.text, buffer[:n]...)
		term.mu.Unlock()
		if err != nil { // The other end is closed: EIO, on Linux.
			return
		}
	}
}

// types presses keys.
func (term *terminal) types(keys string) {
	term.t.Helper()
	if _, err := term.file.WriteString(keys); err != nil {
		term.t.Fatalf("$ %s: type %q: %v", term.line, keys, err)
	}
}

// sees waits until what matches is on the screen, below what was seen before.
func (term *terminal) sees(pattern string) {
	term.t.Helper()
	want := regexp.MustCompile(pattern)
	eventually(term.t, patience, func() error {
		term.mu.Lock()
		defer term.mu.Unlock()
		at := want.FindIndex(term.text)
		if at == nil {
			return fmt.Errorf("$ %s\n%s\nwant: %s", term.line, term.text, want)
		}
		term.text = term.text[at[1]:]
		return nil
	})
}

// resizes drags the window's corner.
func (term *terminal) resizes(columns, rows uint16) {
	term.t.Helper()
	if err := pty.Setsize(term.file, &pty.Winsize{Cols: columns, Rows: rows}); err != nil {
		term.t.Fatal(err)
	}
}

// ends waits until the command has ended, with this status.
func (term *terminal) ends(status int) {
	term.t.Helper()
	select {
	case <-term.ended:
	case <-time.After(patience):
		term.t.Fatalf("$ %s: has not ended; on the screen:\n%s", term.line, term.text)
	}
	err := term.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		term.t.Fatalf("$ %s: %v", term.line, err)
	}
	if got := term.cmd.ProcessState.ExitCode(); got != status {
		term.t.Errorf("$ %s\n%s\n(exit status %d, want %d)", term.line, term.text, got, status)
	}
}
