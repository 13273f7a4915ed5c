package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"skiff/agent"
	"skiff/agent/containerd"
	"skiff/agent/network"
	"skiff/proxy"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func downCommand() *cobra.Command {
	var d dirs
	var purge bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster, its containers included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.absolute(); err != nil {
				return err
			}
			if os.Getuid() != 0 {
				return errors.New("stopping containers needs root: run it with sudo")
			}
			return d.down(cmd.Context(), cmd.OutOrStdout(), purge)
		},
	}
	d.flags(cmd)
	cmd.Flags().BoolVar(&purge, "purge", false, "remove all state and images too")
	return cmd
}

func (d dirs) down(ctx context.Context, out io.Writer, purge bool) error {
	_, dataErr := os.Stat(d.data)
	_, runErr := os.Stat(d.run)
	if dataErr != nil && runErr != nil {
		fmt.Fprintf(out, "there is no cluster in %s\n", d.data)
		return nil
	}
	if err := d.stopServer(ctx); err != nil {
		return err
	}
	l, err := d.whatIsLeft()
	if err != nil {
		return err
	}
	if l != nil {
		if err := d.stopNode(ctx, l, purge); err != nil {
			return err
		}
	}
	if err := agent.UnmountPods(d.data); err != nil {
		return err
	}
	if !purge {
		fmt.Fprintf(out, "the cluster is down; its state is kept in %s\n", d.data)
		return nil
	}
	if err := d.inUse(); err != nil {
		return err
	}
	if err := agent.UnmountVolumes(d.data); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(d.data), os.RemoveAll(d.run)); err != nil {
		return fmt.Errorf("remove the cluster's files: %w", err)
	}
	fmt.Fprintf(out, "the cluster is down and nothing of it is left\n")
	return nil
}

// inUse fails if a server has the data directory open, which must then be one with another run directory.
func (d dirs) inUse() error {
	dir, err := os.Open(d.data)
	if err != nil {
		return nil // There is no state to lose.
	}
	defer dir.Close()
	if unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		return fmt.Errorf("a server still uses %s: give `skiff down` the same --data-dir and --run-dir as it has", d.data)
	}
	return nil
}

// stopTimeout is how long the server may take to stop before it is killed.
const stopTimeout = 30 * time.Second

// stopServer ends the server and waits until it is gone.
func (d dirs) stopServer(ctx context.Context) error {
	pid, ok := d.running()
	if !ok {
		return nil
	}
	// A file descriptor of the process, so that no other that gets its number is meant.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // Gone since we looked.
	}
	defer unix.Close(fd)
	for _, signal := range []unix.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop the server (process %d): %w", pid, err)
		}
		if waitPidfd(ctx, fd, stopTimeout) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("the server (process %d) does not end", pid)
}

// waitPidfd waits until the process has ended.
func waitPidfd(ctx context.Context, fd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, time.Second).Milliseconds())+1)
		if err == nil && n > 0 {
			return true
		}
	}
	return true
}

// whatIsLeft reads what the last server noted, or nothing if there was none since the machine started.
func (d dirs) whatIsLeft() (*left, error) {
	text, err := os.ReadFile(d.leftFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	l := &left{}
	if err == nil {
		err = json.Unmarshal(text, l)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the server uses: %w", err)
	}
	return l, nil
}

// stopNode removes the containers, the pod network and the proxy's rules.
func (d dirs) stopNode(ctx context.Context, l *left, purge bool) error {
	s := settings{options: options{dirs: d, containerd: l.Containerd}}
	errs := []error{s.stopContainers(ctx, purge), stopNetwork(ctx, d, l), proxy.Purge(nftTable)}
	if err := errors.Join(errs...); err != nil {
		return err // The note stays: the next `skiff down` goes on from here.
	}
	return os.Remove(d.leftFile())
}

func (s settings) stopContainers(ctx context.Context, purge bool) (err error) {
	if s.containerd == "" {
		daemon, err := containerd.StartDaemon(ctx, s.daemonConfig())
		if err != nil {
			return err
		}
		defer func() {
			stopErr := daemon.Stop()
			if purge && stopErr == nil {
				stopErr = daemon.Purge()
			}
			err = errors.Join(err, stopErr)
		}()
	}
	runtime, err := containerd.New(ctx, s.runtimeConfig())
	if err != nil {
		return err
	}
	if purge {
		err = runtime.Purge(ctx)
	} else {
		err = runtime.RemoveAll(ctx)
	}
	return errors.Join(err, runtime.Close())
}

func stopNetwork(ctx context.Context, d dirs, l *left) error {
	pods, err1 := parsePodRanges(strings.Split(l.PodCIDR, ","))
	cluster, err2 := clusterFlag.parse(l.ClusterCIDR)
	service, err3 := serviceFlag.parse(l.ServiceCIDR)
	dns, err4 := parseClusterDNS(l.ClusterDNS, service)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("read what the server uses: %w", err)
	}
	n, err := network.New(networkConfig(d, pods, cluster, service, dns, l.CNI))
	if err != nil {
		return err
	}
	return n.Purge(ctx)
}

func networkConfig(d dirs, pods, cluster, service ranges, dns []netip.Addr, cni *network.CNI) network.Config {
	return network.Config{
		Dir: filepath.Join(d.run, "ns"), PodCIDR: pods, ClusterCIDR: cluster, ServiceCIDR: service,
		LocalAddresses: dns, CNI: cni, NoteDir: filepath.Join(d.data, "cni"),
	}
}
