package containerd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// A container with a pod of its own: the floor of what a pod costs.
func BenchmarkStart(b *testing.B) {
	n := newNode(b)
	for b.Loop() {
		config := n.config("bench", "hold")
		if err := n.runtime.Start(b.Context(), config); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		n.end(config.ID)
		b.StartTimer()
	}
}

// BenchmarkExec runs a command that does nothing, and in turn with it the same by containerd's own client: the floor.
func BenchmarkExec(b *testing.B) {
	n := newNode(b)
	config := n.start("exec")
	defer n.end(config.ID)
	var ours, floor []time.Duration
	for i := range 40 {
		start := time.Now()
		if code, err := n.runtime.Exec(b.Context(), config.ID, agent.ExecConfig{Streams: agent.Streams{Stdout: io.Discard}, Command: []string{"/box", "echo", "", "", "0"}}); code != 0 || err != nil {
			b.Fatalf("%d, %v", code, err)
		}
		ours = append(ours, time.Since(start))
		start = time.Now()
		n.bareExec(b, config.ID, fmt.Sprint("bare", i))
		floor = append(floor, time.Since(start))
	}
	slices.Sort(ours)
	slices.Sort(floor)
	b.ReportMetric(float64(ours[20])/1e6, "exec-ms")
	b.ReportMetric(float64(floor[20])/1e6, "floor-ms")
	b.ReportMetric(float64(ours[20])/float64(floor[20]), "exec/floor")
	b.ReportMetric(0, "ns/op")
}

func (n *node) bareExec(b *testing.B, id, name string) {
	task, container, err := n.runtime.running(n.runtime.in(b.Context()), id)
	if err != nil {
		b.Fatal(err)
	}
	ctx := n.runtime.in(b.Context())
	spec, err := container.Spec(ctx)
	if err != nil {
		b.Fatal(err)
	}
	spec.Process.Args = []string{"/box", "echo", "", "", "0"}
	p, err := task.Exec(ctx, name, spec.Process, cio.NewCreator(cio.WithStreams(nil, io.Discard, io.Discard), cio.WithFIFODir(filepath.Join(n.dir, "bare"))))
	if err != nil {
		b.Fatal(err)
	}
	exited, err := p.Wait(ctx)
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		b.Fatal(err)
	}
	<-exited
	if _, err := p.Delete(ctx, containerd.WithProcessKill); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLog reads three million lines of a container into its log.
func BenchmarkLog(b *testing.B) {
	const lines = 3_000_000
	n := newNode(b)
	before, start := cpuTime(b), time.Now()
	config := n.start("lines", "numbers", fmt.Sprint(lines))
	out := n.runtime.output(config.ID)
	<-out.done
	b.ReportMetric(time.Since(start).Seconds(), "s")
	b.ReportMetric((cpuTime(b) - before).Seconds(), "cpu-s")
	b.ReportMetric(0, "ns/op")
	n.waitExited(config.ID)
	n.end(config.ID)
	f, err := os.Open(n.logPath("lines"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	last := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		last = s.Text()
	}
	if want := fmt.Sprintf(" stdout F %d", lines-1); len(last) < len(want) || last[len(last)-len(want):] != want {
		b.Errorf("the log ends with %q, want %q", last, want)
	}
}

// BenchmarkMemory tells what the runtime keeps of a container that runs and says nothing.
func BenchmarkMemory(b *testing.B) {
	const count = 20
	n := newNode(b)
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC() // Pools are emptied at the second.
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	n.start("first") // With what all share.
	n.waitLog("first", "stdout holding")
	before := inUse()
	for i := range count {
		n.start(fmt.Sprint("more", i))
		n.waitLog(fmt.Sprint("more", i), "stdout holding")
	}
	b.ReportMetric(float64(int64(inUse()-before))/1024/count, "KiB/container")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
