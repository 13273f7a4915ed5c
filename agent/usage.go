package agent

import (
	"context"
	"sync"
	"time"

	"skiff/agent/cgroup"
)

// A rate needs two readings. Nobody reads while nobody asks: who asks is answered from the reading that the one before had taken
// if that is neither too fresh nor too old, and waits for a second one otherwise.
const (
	shortestWindow = time.Second
	longestWindow  = 90 * time.Second
)

// usages measures cgroups for those who ask.
type usages struct {
	fs cgroup.FS

	mu   sync.Mutex // Held while measuring: who asks meanwhile gets the same.
	last map[string]usage
}

// usage is what a cgroup uses, and how fast.
type usage struct {
	cgroup.Usage
	window    time.Duration // Before At. 0: there is no rate yet.
	nanoCores uint64        // Billionths of a processor.
}

// measure returns the usage of those of the cgroups that are there.
func (u *usages) measure(ctx context.Context, paths []string) (map[string]usage, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, complete := u.read(paths)
	if !complete {
		pause(ctx, shortestWindow)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		u.last = now
		now, _ = u.read(paths)
	}
	u.last = now // And nothing else: what has gone is forgotten.
	return now, nil
}

// read reads the cgroups, and compares with the last reading. complete says that each has a rate.
func (u *usages) read(paths []string) (now map[string]usage, complete bool) {
	now, complete = make(map[string]usage, len(paths)), true
	for _, path := range paths {
		read, err := u.fs.Usage(path)
		if err != nil {
			continue // It ended, or is a stranger's.
		}
		next := since(read, u.last[path])
		complete = complete && next.window > 0
		now[path] = next
	}
	return now, complete
}

// since is a reading with the rate since the one before. What is too fresh to be compared with is good as it is.
func since(read cgroup.Usage, before usage) usage {
	window := read.At.Sub(before.At)
	switch {
	case before.At.IsZero(), window > longestWindow, read.CPU < before.CPU:
		return usage{Usage: read}
	case window < shortestWindow:
		return before
	}
	return usage{Usage: read, window: window, nanoCores: uint64(float64(read.CPU-before.CPU) / window.Seconds())}
}
