package test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// shimSockets lists the sockets of shims: they cannot be told from those of other clusters by their names.
func shimSockets() []string {
	sockets, _ := filepath.Glob("/run/containerd/s/*")
	return sockets
}

// remove ends the node as its user would, and fails the test if anything of it is left.
func (n *node) remove() {
	if n.t.Failed() {
		n.report(n.t)
	}
	if !n.removed {
		n.purge()
	}
	for _, what := range n.remains() {
		n.t.Errorf("left after `skiff down --purge`: %s", what)
	}
	n.destroy()
	for _, what := range n.remains() {
		n.t.Errorf("left after the test: %s", what)
	}
}

// purge removes the cluster by command.
func (n *node) purge() {
	n.removed = true
	r := execute(n.t, "skiff down --purge", n.skiff("down", "--purge"))
	if r.status != 0 {
		n.t.Errorf("failed: %v", r)
	}
}

// maxFiles bounds how many files of a directory are named: there are thousands in an image.
const maxFiles = 10

// remains lists what there still is of the cluster, in words.
func (n *node) remains() []string {
	var found []string
	for _, pid := range n.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
	}
	for _, mount := range n.mounts() {
		found = append(found, "mount "+mount)
	}
	for _, dir := range n.cgroups() {
		found = append(found, "cgroup "+dir)
	}
	for _, socket := range n.sockets() {
		found = append(found, "socket "+socket)
	}
	for _, dir := range []string{n.data, n.run} {
		files := 0
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return nil // It is gone.
			}
			if files++; files <= maxFiles {
				found = append(found, "file "+path)
			}
			return nil
		})
		if files > maxFiles {
			found = append(found, fmt.Sprintf("%d more files in %s", files-maxFiles, dir))
		}
	}
	return append(found, n.network()...)
}

// processes are those that carry one of the node's paths in their command line, as containerd and its shims do, or that
// are in a network namespace of the node or of one of its pods.
func (n *node) processes() []int {
	pins, _ := filepath.Glob(filepath.Join(n.run, "ns", "*", "net"))
	found := processesIn(append(pins, "/run/netns/"+n.netns, "/run/netns/"+n.outside))
	for _, pid := range allProcesses() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(line, []byte(n.dir+"/")) && !slices.Contains(found, pid) {
			found = append(found, pid)
		}
	}
	return found
}

// processesIn are the processes in network namespaces, which are given by paths.
func processesIn(paths []string) []int {
	namespaces := map[uint64]bool{}
	for _, path := range paths {
		if inode, err := inode(path); err == nil {
			namespaces[inode] = true
		}
	}
	return slices.DeleteFunc(allProcesses(), func(pid int) bool {
		inode, err := inode(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err != nil || !namespaces[inode]
	})
}

// allProcesses are all but this one.
func allProcesses() []int {
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	return found
}

func inode(path string) (uint64, error) {
	var stat unix.Stat_t
	err := unix.Stat(path, &stat)
	return stat.Ino, err
}

func (n *node) mounts() []string {
	var found []string
	all, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(all)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], n.dir+"/") && fields[4] != filepath.Dir(n.run) {
			found = append(found, fields[4])
		}
	}
	return found
}

// cgroups are those in the node's own, in all hierarchies. A server names it by its run directory.
func (n *node) cgroups() []string {
	own := fmt.Sprintf("skiff-%.4x", sha256.Sum256([]byte(n.run)))
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/" + own + "/*") // One hierarchy a controller, and
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + own + "/*")   // one for all.
	return slices.DeleteFunc(append(cgroups, unified...), func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || !info.IsDir()
	})
}

// sockets are those of shims that came since the node did, and that nobody listens on.
func (n *node) sockets() []string {
	return slices.DeleteFunc(shimSockets(), func(path string) bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return slices.Contains(n.before, path) || !errors.Is(err, syscall.ECONNREFUSED)
	})
}

// network lists the links and nft tables of the node's network namespace that were not made by newNode.
func (n *node) network() []string {
	handle, err := netns.GetFromName(n.netns)
	if err != nil {
		return nil // It is gone, with all that was in it.
	}
	defer handle.Close()
	var found []string
	links, err := netlink.NewHandleAt(handle)
	if err != nil {
		return []string{"network: " + err.Error()}
	}
	defer links.Close()
	all, err := links.LinkList()
	if err != nil {
		return []string{"network: " + err.Error()}
	}
	for _, l := range all {
		if name := l.Attrs().Name; name != "lo" && name != "uplink" {
			found = append(found, "link "+name)
		}
	}
	routes, err := links.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
	if err != nil {
		return append(found, "routes: "+err.Error())
	}
	for _, r := range routes {
		found = append(found, "route "+r.String())
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(handle)))
	if err != nil {
		return append(found, "nft: "+err.Error())
	}
	tables, err := conn.ListTables()
	if err != nil {
		return append(found, "nft: "+err.Error())
	}
	for _, table := range tables {
		found = append(found, "nft table "+table.Name)
	}
	return found
}

// destroy removes what is left, whatever it is.
func (n *node) destroy() {
	n.kill()
	for _, mount := range slices.Backward(n.mounts()) {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	for _, dir := range n.cgroups() {
		removeCgroup(dir)
	}
	for _, socket := range n.sockets() {
		_ = os.Remove(socket)
	}
	n.disconnect()
	_ = unix.Unmount(filepath.Dir(n.run), 0) // Where it is one: see runInMemory.
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Errorf("remove the node's files: %v", err)
	}
}

// kill ends all processes of the node.
func (n *node) kill() {
	n.t.Helper()
	eventually(n.t, stopTime, func() error {
		left := n.processes()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("the processes %v do not end", left)
		}
		return nil
	})
}

// removeCgroup removes a cgroup, those inside first.
func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}
