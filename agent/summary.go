package agent

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api/stats"
)

// serveSummary answers what the node and its pods use; with only_cpu_and_memory it leaves the disk alone.
func (a *Agent) serveSummary(w http.ResponseWriter, r *http.Request) {
	only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory"))
	summary, err := a.summary(r.Context(), !only)
	if err != nil {
		respondError(w, err)
		return
	}
	respondJSON(w, summary)
}

// census is who lives on the node and what they use.
type census struct {
	node usage
	pods []resident
}

type resident struct {
	*v1.Pod
	containers []Container // That run.
	cgroup     string
	usages     map[string]usage // By cgroup.
}

// nodeCgroup is that of everything on the machine.
const nodeCgroup = "/"

// residents finds the pods that have running containers, and the cgroups to read for them.
func (a *Agent) residents(ctx context.Context) (pods []resident, cgroups []string, err error) {
	containers, err := a.runtime.Containers(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	cgroups = []string{nodeCgroup}
	byPod := map[string]int{}
	for _, c := range containers {
		if c.State != Running || c.Cgroup == "" {
			continue
		}
		i, known := byPod[c.Pod.UID]
		if !known {
			pod := a.pod(c.Pod.UID)
			if pod == nil {
				continue // On its way out.
			}
			i = len(pods)
			byPod[c.Pod.UID] = i
			pods = append(pods, resident{Pod: pod, cgroup: path.Dir(c.Cgroup)})
			cgroups = append(cgroups, path.Dir(c.Cgroup))
		}
		pods[i].containers = append(pods[i].containers, c)
		cgroups = append(cgroups, c.Cgroup)
	}
	return pods, cgroups, nil
}

// count measures the node and all who live on it.
func (a *Agent) count(ctx context.Context) (census, error) {
	pods, cgroups, err := a.residents(ctx)
	if err != nil {
		return census{}, err
	}
	usages, err := a.usages.measure(ctx, cgroups)
	if err != nil {
		return census{}, fmt.Errorf("measure what pods use: %w", err)
	}
	for i := range pods {
		pods[i].usages = usages
	}
	return census{node: usages[nodeCgroup], pods: pods}, nil
}

func (a *Agent) summary(ctx context.Context, disks bool) (*stats.Summary, error) {
	all, err := a.count(ctx)
	if err != nil {
		return nil, err
	}
	memory := a.capacity[v1.ResourceMemory]
	node := all.node
	node.Limit = uint64(memory.Value())
	s := &stats.Summary{Node: stats.Node{
		Name: a.NodeName, StartTime: bootTime(),
		CPU: cpuStats(node), Memory: memoryStats(node), Network: networkStats("/proc/net/dev", defaultLink()),
	}, Pods: make([]stats.Pod, 0, len(all.pods))}
	now := metav1.Now()
	if used, most, err := processes(); err == nil {
		s.Node.Processes = &stats.Processes{Time: now, Now: &used, Most: &most}
	}
	if disks {
		s.Node.Disk = diskStats(a.DataDir, nil)
		s.Node.Runtime = &stats.Runtime{Images: diskStats(a.images, nil)}
	}
	var claimed map[stats.ClaimRef]string
	if disks {
		claimed = a.claimDirs()
	}
	for _, pod := range all.pods {
		s.Pods = append(s.Pods, a.podStats(ctx, pod, disks, claimed))
	}
	return s, nil
}

func (a *Agent) podStats(ctx context.Context, pod resident, disks bool, claimed map[stats.ClaimRef]string) stats.Pod {
	p := stats.Pod{Ref: stats.PodRef{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)}, Containers: []stats.Container{}}
	if pod.Status.StartTime != nil {
		p.StartTime = *pod.Status.StartTime
	}
	if u, ok := pod.usages[pod.cgroup]; ok {
		p.CPU, p.Memory = cpuStats(u), memoryStats(u)
		p.Processes = &stats.Count{Processes: &u.Processes}
	}
	total := uint64(0)
	for _, c := range pod.containers {
		u, ok := pod.usages[c.Cgroup]
		if !ok {
			continue // It ended meanwhile.
		}
		one := stats.Container{Name: c.Name, StartTime: metav1.NewTime(c.Started), CPU: cpuStats(u), Memory: memoryStats(u)}
		if p.Network == nil && !pod.Spec.HostNetwork {
			p.Network = a.podLinks(c)
		}
		if disks {
			one.Root, one.Logs = a.containerDisks(ctx, pod.Pod, c)
			total += *one.Logs.Used
			if one.Root != nil {
				total += *one.Root.Used
			}
		}
		p.Containers = append(p.Containers, one)
	}
	if disks {
		p.Volumes = a.volumeStats(pod.Pod, claimed)
		for _, v := range p.Volumes {
			if onDisk(pod.Pod, v.Name) {
				total += *v.Used
			}
		}
		p.Ephemeral = diskStats(a.DataDir, &total)
	}
	return p
}

// containerDisks measures what a container has written. The layer of one that is gone meanwhile is nil.
func (a *Agent) containerDisks(ctx context.Context, pod *v1.Pod, c Container) (root, logs *stats.Disk) {
	if used, err := a.runtime.DiskUsage(ctx, c.ID); err == nil {
		bytes := uint64(max(used, 0))
		root = diskStats(a.images, &bytes)
	}
	written := uint64(max(diskUsage(path.Dir(a.dirs.log(pod, c.Name, c.Attempt))), 0))
	return root, diskStats(a.DataDir, &written)
}

// podLinks reads the links of a pod, which any process of it can tell.
func (a *Agent) podLinks(c Container) *stats.Network {
	for _, pid := range a.usages.fs.Processes(c.Cgroup) {
		return networkStats(fmt.Sprintf("/proc/%d/net/dev", pid), "eth0")
	}
	return nil
}

func cpuStats(u usage) *stats.CPU {
	if u.At.IsZero() {
		return nil
	}
	total := uint64(u.CPU)
	cpu := &stats.CPU{Time: metav1.NewTime(u.At), CoreNanos: &total}
	if u.window > 0 {
		cpu.NanoCores, cpu.Window.Duration = &u.nanoCores, u.window.Round(time.Millisecond)
	}
	return cpu
}

func memoryStats(u usage) *stats.Memory {
	if u.At.IsZero() {
		return nil
	}
	m := &stats.Memory{Time: metav1.NewTime(u.At), Usage: &u.Memory, WorkingSet: &u.WorkingSet, RSS: &u.RSS, Faults: &u.Faults, BigFaults: &u.BigFaults}
	if u.Limit > 0 {
		left := u.Limit - min(u.Limit, u.WorkingSet)
		m.Available = &left
	}
	return m
}

// diskStats tells of the disk that a directory is on, and how much somebody has of it; nil: all that is used.
func diskStats(dir string, used *uint64) *stats.Disk {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return &stats.Disk{Time: metav1.Now(), Used: used}
	}
	block := uint64(fs.Bsize)
	available, capacity, inodesUsed := fs.Bavail*block, fs.Blocks*block, fs.Files-fs.Ffree
	d := &stats.Disk{Time: metav1.Now(), Available: &available, Capacity: &capacity, Used: used, Inodes: &fs.Files, InodesFree: &fs.Ffree}
	if used == nil {
		all := (fs.Blocks - fs.Bfree) * block
		d.Used, d.InodesUsed = &all, &inodesUsed
	}
	return d
}

// networkStats reads a table of links, and puts one of them first.
func networkStats(file, first string) *stats.Network {
	links := readLinks(file)
	if links == nil {
		return nil
	}
	n := &stats.Network{Time: metav1.Now()}
	for _, l := range links {
		c := l.counts
		link := stats.Link{Name: l.name, RxBytes: &c[0], RxErrors: &c[2], TxBytes: &c[4], TxErrors: &c[6]}
		n.Links = append(n.Links, link)
		if l.name == first {
			n.Link = link
		}
	}
	return n
}

// linkCounts are what a link has received and sent: bytes, packets, errors and dropped packets, of each.
type linkCounts struct {
	name   string
	counts [8]uint64
}

// readLinks reads a table of links, nil if it can't be read. What never leaves is not in it, nor what has a name that is no text: a pod
// that may make links can give them any, and a single one that is not UTF-8 is the end of all metrics.
func readLinks(file string) []linkCounts {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	links := []linkCounts{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, counts, ok := strings.Cut(lines.Text(), ":")
		words := strings.Fields(counts)
		if name = strings.Trim(name, " "); !ok || len(words) < 12 || name == "lo" || !utf8.ValidString(name) {
			continue // The heading.
		}
		link := linkCounts{name: name}
		for i, word := range slices.Concat(words[:4], words[8:12]) {
			link.counts[i], _ = strconv.ParseUint(word, 10, 64)
		}
		links = append(links, link)
	}
	return links
}

// defaultLink is the link that the default route goes by.
func defaultLink() string {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[1] == "00000000" {
			return words[0]
		}
	}
	return ""
}

// bootTime is when the machine started.
func bootTime() metav1.Time {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Now().Add(-time.Duration(info.Uptime) * time.Second).Truncate(time.Second))
}
