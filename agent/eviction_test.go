package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRank puts first who uses more than it asked for, then who matters less, then who uses the most beyond.
func TestRank(t *testing.T) {
	pod := func(name string, priority int32, used, request int64) candidate {
		return candidate{pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Priority: &priority}}, used: used, request: request}
	}
	all := []candidate{
		pod("within", -5, 10, 20), pod("within-more", -5, 15, 20), pod("important", 100, 900, 100), pod("little", 0, 110, 100), pod("much", 0, 200, 0),
	}
	rank(all)
	var names []string
	for _, c := range all {
		names = append(names, c.pod.Name)
	}
	if got, want := strings.Join(names, " "), "much little important within-more within"; got != want {
		t.Errorf("they go in the order %s, want %s", got, want)
	}
}

// TestThresholds reads the flag, compares with the host, and takes from what pods may have.
func TestThresholds(t *testing.T) {
	defaults, err := ParseThresholds(DefaultEvictionHard)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"memory.available", "memory.available>1Mi", "moon.available<1", "nodefs.available<100%", "memory.available<-1"} {
		if _, err := ParseThresholds(bad); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
	host := map[Signal]stock{memoryAvailable: {200 << 20, 8 << 30}, diskAvailable: {6, 100}, imagesAvailable: {4, 100}, inodesFree: {50, 100}, imagesInodesFree: {50, 100}}
	crossed, near := met(defaults, host)
	if len(crossed) != 1 || crossed[0].Signal != imagesAvailable || !near {
		t.Errorf("crossed: %v, near: %t; want that of images only", crossed, near)
	}
	capacity := v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourceEphemeralStorage: resource.MustParse("100Gi"), v1.ResourceCPU: resource.MustParse("2")}
	got := allocatableOf(capacity, v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("124Mi")}, defaults)
	if got.Cpu().String() != "1500m" || got.Memory().String() != "800Mi" || got.StorageEphemeral().String() != "95Gi" {
		t.Errorf("allocatable: %v", got)
	}
}

// layerOf is a runtime that knows nothing but how large the layers of containers are.
type layerOf struct {
	Runtime
	bytes int64
}

func (l layerOf) DiskUsage(context.Context, string) (int64, error) { return l.bytes, nil }

// TestImagesOnADiskOfTheirOwn measures each disk for itself, and counts for each what containers have written to it.
func TestImagesOnADiskOfTheirOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	data, images := t.TempDir(), t.TempDir()
	if dir, apart := imagesOn("", data); dir != data || apart {
		t.Errorf("images that are nobody knows where are looked for in %s, apart: %t", dir, apart)
	}
	if dir, apart := imagesOn(images, data); dir != data || apart {
		t.Errorf("images on the same disk are looked for in %s, apart: %t", dir, apart)
	}
	if err := unix.Mount("tmpfs", images, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(images, 0); err != nil {
			t.Error(err)
		}
	}()
	if dir, apart := imagesOn(images, data); dir != images || !apart {
		t.Errorf("images on another disk are looked for in %s, apart: %t", dir, apart)
	}
	if err := os.WriteFile(filepath.Join(images, "layer"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := observe(data, images)
	if err != nil || host[imagesAvailable] != (stock{0, 1 << 20}) || host[diskAvailable].capacity <= 1<<20 {
		t.Errorf("the host has %v, %v; want no room for images, and another disk", host, err)
	}

	pod := resident{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"}}, containers: []Container{{Name: "app"}}}
	a := &Agent{dirs: dirs{data: data}, runtime: layerOf{bytes: 7 << 20}}
	log := a.dirs.log(pod.Pod, "app", 0)
	if err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o755), os.WriteFile(log, make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		apart bool
		of    Signal
		want  int64 // MiB.
	}{{false, diskAvailable, 8}, {false, imagesAvailable, 8}, {true, diskAvailable, 1}, {true, imagesAvailable, 7}, {true, imagesInodesFree, 7}} {
		a.apart = tc.apart
		if got := a.writtenTo(t.Context(), tc.of, pod, "app") >> 20; got != tc.want {
			t.Errorf("of %s, images apart: %t, a container has used %d MiB, want %d", tc.of, tc.apart, got, tc.want)
		}
	}
}

// TestPressureLasts keeps a condition for some time, and has it refuse pods that promise nothing.
func TestPressureLasts(t *testing.T) {
	p := newPressure(Config{EvictionPause: time.Minute})
	now := time.Now()
	if !p.see([]Threshold{{Signal: memoryAvailable}}, now) {
		t.Error("a new condition is no news")
	}
	bestEffort, burstable := &v1.Pod{Status: v1.PodStatus{QOSClass: v1.PodQOSBestEffort}}, &v1.Pod{Status: v1.PodStatus{QOSClass: v1.PodQOSBurstable}}
	tolerant := bestEffort.DeepCopy()
	tolerant.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists}}
	later := now.Add(50 * time.Second)
	if got := p.refuses(bestEffort, later); got != "The node had condition: [MemoryPressure]. " {
		t.Errorf("who promised nothing is told %q", got)
	}
	if p.refuses(burstable, later) != "" || p.refuses(tolerant, later) != "" || p.refuses(bestEffort, now.Add(70*time.Second)) != "" {
		t.Error("others, or later, are refused")
	}
	for _, step := range []struct {
		after time.Duration
		news  bool
	}{{50 * time.Second, false}, {70 * time.Second, true}, {80 * time.Second, false}} {
		if got := p.see(nil, now.Add(step.after)); got != step.news {
			t.Errorf("%s later the end of a condition is news: %t, want %t", step.after, got, step.news)
		}
	}
}

// TestRefusedShrink says the same of a limit that is too small, however much the container holds by now.
func TestRefusedShrink(t *testing.T) {
	var r resizing
	first := r.refuse(tooSmall{"app", 100, 150})
	if again := r.refuse(tooSmall{"app", 100, 170}); again != first {
		t.Errorf("it says %q, and then %q", first, again)
	}
	if other := r.refuse(tooSmall{"app", 120, 170}); other == first {
		t.Errorf("of another limit it says %q", other)
	}
	const want = "cannot decrease memory limits: attempting to set pod memory limit (100) below current usage (150)"
	if whole := r.refuse(tooSmall{"", 100, 150}); whole.Error() != want {
		t.Errorf("of the pod as a whole it says %q", whole)
	}
}
