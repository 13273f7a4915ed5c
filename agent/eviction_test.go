package agent

import (
	"strings"
	"testing"
	"time"

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
