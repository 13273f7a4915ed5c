package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a node can run out of.
type Signal string

// Kubernetes' eviction signals. https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#eviction-signals
const (
	memoryAvailable  Signal = "memory.available"
	diskAvailable    Signal = "nodefs.available"
	inodesFree       Signal = "nodefs.inodesFree"
	imagesAvailable  Signal = "imagefs.available"
	imagesInodesFree Signal = "imagefs.inodesFree"
	pidAvailable     Signal = "pid.available"
)

// DefaultEvictionHard are Kubernetes' own but for the disk, of which 5 % must be free as in k3s: the 10 and 15 % there are tens of
// gigabytes of a laptop, on which nothing would run.
const DefaultEvictionHard = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%"

// Threshold is how little of something may be left before pods must go.
type Threshold struct {
	Signal  Signal
	Amount  int64   // Bytes, or a count.
	Percent float64 // Of what there is; 0: Amount holds.
}

// of is the threshold as an amount, where there is so much in all.
func (t Threshold) of(capacity int64) int64 {
	if t.Percent > 0 {
		return int64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// condition is what a node says that is short of it.
func (s Signal) condition() v1.NodeConditionType {
	switch s {
	case memoryAvailable:
		return v1.NodeMemoryPressure
	case pidAvailable:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

// resource is what the signal is called when it is told of.
func (s Signal) resource() v1.ResourceName {
	switch s {
	case memoryAvailable:
		return v1.ResourceMemory
	case diskAvailable, imagesAvailable:
		return v1.ResourceEphemeralStorage
	case inodesFree, imagesInodesFree:
		return "inodes"
	}
	return "pids"
}

// ParseThresholds reads "memory.available<100Mi,nodefs.available<10%".
func ParseThresholds(text string) ([]Threshold, error) {
	var all []Threshold
	for word := range strings.SplitSeq(text, ",") {
		if word == "" {
			continue
		}
		signal, amount, ok := strings.Cut(word, "<")
		t := Threshold{Signal: Signal(signal)}
		switch t.Signal {
		case memoryAvailable, diskAvailable, inodesFree, imagesAvailable, imagesInodesFree, pidAvailable:
		default:
			ok = false
		}
		var err error
		if percent, is := strings.CutSuffix(amount, "%"); is {
			t.Percent, err = strconv.ParseFloat(percent, 64)
			ok = ok && t.Percent > 0 && t.Percent < 100
		} else {
			var q resource.Quantity
			q, err = resource.ParseQuantity(amount)
			t.Amount = q.Value()
			ok = ok && t.Amount >= 0
		}
		if !ok || err != nil {
			return nil, fmt.Errorf("%q is no eviction threshold: it must be like memory.available<100Mi or nodefs.available<10%%", word)
		}
		all = append(all, t)
	}
	return all, nil
}

// stock is how much there is of something, and in all.
type stock struct{ available, capacity int64 }

// imagesOn is a directory on the disk that images are on, and whether that is another one than that of everything else. If nobody knows,
// it is the same.
func imagesOn(imagesDir, dataDir string) (dir string, apart bool) {
	var images, data unix.Stat_t
	if imagesDir == "" || unix.Stat(imagesDir, &images) != nil || unix.Stat(dataDir, &data) != nil || images.Dev == data.Dev {
		return dataDir, false
	}
	return imagesDir, true
}

// observe measures the host.
func observe(dataDir, imagesDir string) (map[Signal]stock, error) {
	total, totalErr := meminfo("MemTotal")
	available, memoryErr := meminfo("MemAvailable")
	used, most, pidErr := processes()
	seen := map[Signal]stock{memoryAvailable: {available, total}, pidAvailable: {most - used, most}}
	err := errors.Join(totalErr, memoryErr, pidErr, observeDisk(dataDir, seen, diskAvailable, inodesFree),
		observeDisk(imagesDir, seen, imagesAvailable, imagesInodesFree))
	if err != nil {
		return nil, fmt.Errorf("measure the host: %w", err)
	}
	return seen, nil
}

func observeDisk(dir string, seen map[Signal]stock, bytes, inodes Signal) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return err
	}
	seen[bytes] = stock{int64(disk.Bavail) * disk.Bsize, int64(disk.Blocks) * disk.Bsize}
	if disk.Files > 0 { // Some file systems make inodes as they need them.
		seen[inodes] = stock{int64(disk.Ffree), int64(disk.Files)}
	}
	return nil
}

// met lists the thresholds that are crossed, and whether another is near.
func met(thresholds []Threshold, host map[Signal]stock) (crossed []Threshold, near bool) {
	for _, t := range thresholds {
		have, ok := host[t.Signal]
		if !ok {
			continue
		}
		limit := t.of(have.capacity)
		if have.available < limit {
			crossed = append(crossed, t)
		}
		near = near || have.available < limit+have.capacity/t.Signal.margin()
	}
	return crossed, near
}

// ofImages says that it is a signal of the disk that images are on.
func (s Signal) ofImages() bool { return s == imagesAvailable || s == imagesInodesFree }

// margin says what part of all there is a threshold must be away to be looked at seldom. Memory fills faster than disks.
func (s Signal) margin() int64 {
	if s == memoryAvailable {
		return 10
	}
	return 50
}

// psi is a file that becomes readable when tasks have waited for memory: the kernel looks on for us.
// https://docs.kernel.org/accounting/psi.html#monitoring-for-pressure-thresholds
type psi struct{ file *os.File }

// memoryStalls opens it: 100 ms of a second are to be lost. Without the kernel's help there is none, and the clock has to do.
func memoryStalls() *psi {
	f, err := os.OpenFile("/proc/pressure/memory", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	if _, err := f.WriteString("some 100000 1000000"); err != nil {
		f.Close()
		return nil
	}
	return &psi{f}
}

// follow calls stalled at each event, until stop is closed.
func (p *psi) follow(stop <-chan struct{}, stalled func()) {
	defer p.file.Close()
	fd := int32(p.file.Fd())
	var wake [2]int
	if unix.Pipe2(wake[:], unix.O_CLOEXEC) != nil {
		return
	}
	defer unix.Close(wake[0])
	ended := make(chan struct{})
	go func() { <-stop; unix.Close(wake[1]); close(ended) }()
	defer func() { <-ended }()
	for {
		fds := []unix.PollFd{{Fd: fd, Events: unix.POLLPRI}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			<-stop
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents&unix.POLLERR != 0 {
			<-stop
			return
		}
		if fds[0].Revents&unix.POLLPRI != 0 {
			stalled()
			time.Sleep(stallPause)
		}
	}
}

// stallPause is how often at most a stall is told of.
const stallPause = time.Second
