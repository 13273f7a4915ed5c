package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skiff/agent/network"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// readyTimeout bounds how long `skiff up` waits for the node.
const readyTimeout = 2 * time.Minute

func upCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster in the background and wait until its node is Ready",
		Long:  "Start a cluster in the background and wait until its node is Ready. The flags are those of `skiff server`.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.parse()
			if err != nil {
				return err
			}
			return s.up(cmd, changedFlags(cmd))
		},
	}
	o.flags(cmd)
	return cmd
}

// changedFlags are the flags that the user gave, to give them on.
func changedFlags(cmd *cobra.Command) []string {
	var args []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",")
		}
		args = append(args, "--"+f.Name+"="+value)
	})
	return args
}

func (s settings) up(cmd *cobra.Command, flags []string) error {
	out := cmd.OutOrStdout()
	if pid, ok := s.running(); ok {
		fmt.Fprintf(out, "the cluster is up already (process %d); kubeconfig: %s\n", pid, s.kubeconfigOut)
		return nil
	}
	started := time.Now()
	child, ready, err := s.startServer(flags)
	if err != nil {
		return err
	}
	defer ready.Close()
	if err := waitLine(cmd.Context(), ready); err != nil {
		_ = child.Process.Signal(syscall.SIGTERM)
		_ = child.Wait()
		return fmt.Errorf("the server did not come up: %s (all of its log: %s)", s.lastWords(err), s.log())
	}
	fmt.Fprintf(out, "the cluster is up after %s (process %d); kubeconfig: %s\n", since(started), child.Process.Pid, s.kubeconfigOut)
	return child.Process.Release()
}

// startServer starts `skiff server` in a session of its own. The pipe gets a line when the node is Ready, and ends when
// the server does.
func (s settings) startServer(flags []string) (*exec.Cmd, *os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the directory %s: %w", s.data, err)
	}
	_ = os.Rename(s.log(), s.log()+".1") // The last run's, if there was one.
	logFile, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open the log: %w", err)
	}
	defer logFile.Close()
	ready, childEnd, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer childEnd.Close()
	child := exec.Command(self, append([]string{"server"}, flags...)...) // Not CommandContext: it outlives us.
	child.Stdout, child.Stderr = logFile, logFile
	child.ExtraFiles = []*os.File{childEnd}
	child.Env = append(os.Environ(), readyFD+"=3")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		ready.Close()
		return nil, nil, fmt.Errorf("start the server: %w", err)
	}
	return child, ready, nil
}

// readyFD is the variable that names the file descriptor on which a server tells that its node is Ready.
const readyFD = "SKIFF_READY_FD"

// tellReady tells a waiting `skiff up`, if there is one.
func tellReady() {
	fd, err := strconv.Atoi(os.Getenv(readyFD))
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "ready")
	fmt.Fprintln(f, "ready")
	f.Close()
	os.Unsetenv(readyFD)
}

func waitLine(ctx context.Context, pipe *os.File) error {
	if err := pipe.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Now()) })()
	_, err := bufio.NewReader(pipe).ReadString('\n')
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it ended")
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return fmt.Errorf("the node was not Ready within %s", readyTimeout)
	}
	return nil
}

// lastWords is why a server ended, from its log, or else err.
func (s settings) lastWords(err error) string {
	text, readErr := os.ReadFile(s.log())
	if readErr != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := lines[len(lines)-1]
	if rest, ok := strings.CutPrefix(last, "skiff: "); ok {
		return rest
	}
	return err.Error()
}

// running finds the server of these directories, if it lives: it holds a lock on its note of the process ID.
func (d dirs) running() (pid int, ok bool) {
	f, err := os.Open(d.pidFile())
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, false // A server that was killed left it.
	}
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, err == nil
}

// left is what a server leaves for `skiff down` to know: how to find what it made.
type left struct {
	Containerd  string `json:"containerd,omitempty"`
	ClusterCIDR string `json:"clusterCIDR"`
	ServiceCIDR string `json:"serviceCIDR"`
	ClusterDNS  string `json:"clusterDNS"`
	PodCIDR     string `json:"podCIDR"`

	CNI *network.CNI `json:"cni,omitempty"`
}

func (d dirs) leftFile() string { return filepath.Join(d.run, "server.json") }

func (d dirs) leave(l left) error {
	text, err := json.Marshal(l)
	if err == nil {
		err = os.WriteFile(d.leftFile(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note what the server uses: %w", err)
	}
	return nil
}
