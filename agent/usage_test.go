package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/agent/cgroup"
)

// TestRates makes a rate of two readings, unless they are too near to each other or too far.
func TestRates(t *testing.T) {
	start := time.Now()
	read := func(after, cpu time.Duration) cgroup.Usage { return cgroup.Usage{At: start.Add(after), CPU: cpu} }
	first := since(read(0, time.Second), usage{})
	if first.window != 0 {
		t.Error("one reading has a rate")
	}
	second := since(read(2*time.Second, 2*time.Second), first)
	if second.nanoCores != 500_000_000 || second.window != 2*time.Second {
		t.Errorf("a second of CPU in two: %d nanocores over %v", second.nanoCores, second.window)
	}
	if again := since(read(2100*time.Millisecond, 3*time.Second), second); again != second {
		t.Errorf("a tenth of a second later: %v, want what it was", again)
	}
	if late := since(read(time.Hour, time.Hour), second); late.window != 0 {
		t.Errorf("an hour later there is a rate over %v", late.window)
	}
	if other := since(read(4*time.Second, 0), second); other.window != 0 {
		t.Error("another cgroup of that name has a rate")
	}
}

// A link may have nearly any bytes for a name. None of them costs the others their counts, or passes for another's.
func TestLinkNames(t *testing.T) {
	file, counts := filepath.Join(t.TempDir(), "dev"), strings.Repeat(" 1", 16)
	table := "Inter-|   Receive\n face |bytes\n    lo:" + counts + "\n  eth0:" + counts + "\n\xff\xfe:" + counts + "\neth0\u2003:" + counts + "\n"
	if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, link := range readLinks(file) {
		names = append(names, link.name)
	}
	if diff := cmp.Diff([]string{"eth0", "eth0\u2003"}, names); diff != "" {
		t.Error(diff)
	}
}
