package controller

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// sized makes a Deployment of that size with strategy RollingUpdate; surge and missing are as in YAML: "2" or "25%".
func sized(size int32, surge, missing string) *appsv1.Deployment {
	s, m := intstr.Parse(surge), intstr.Parse(missing)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &size,
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &m},
			},
		},
	}
}

// set makes a ReplicaSet with replicas wanted and available; a lower n in web-n is older.
func set(n int, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("web-%d", n), Namespace: "default",
			CreationTimestamp: metav1.NewTime(time.Unix(int64(n)*100, 0)),
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status: appsv1.ReplicaSetStatus{Replicas: replicas, AvailableReplicas: available},
	}
}

// shrunk gives a ReplicaSet a new size that its status does not show yet.
func shrunk(rs *appsv1.ReplicaSet, size int32) *appsv1.ReplicaSet {
	rs.Spec.Replicas = &size
	return rs
}

// TestBounds holds the rounding that Kubernetes documents: surge up, unavailable down, never both zero.
func TestBounds(t *testing.T) {
	tests := []struct {
		size           int32
		surge, missing string
		wantSurge      int32
		wantMissing    int32
	}{
		{10, "25%", "25%", 3, 2},
		{10, "30%", "30%", 3, 3},
		{1, "25%", "25%", 1, 0},
		{2, "25%", "25%", 1, 0},
		{3, "25%", "25%", 1, 0},
		{4, "25%", "25%", 1, 1},
		{3, "0%", "10%", 0, 1},
		{7, "5", "1", 5, 1},
		{5, "0", "0%", 0, 1},
		{2, "1", "5", 1, 2},
		{0, "25%", "25%", 0, 0},
		{1, "100%", "100%", 1, 1},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%d with %s and %s", tc.size, tc.surge, tc.missing), func(t *testing.T) {
			surge, missing := bounds(sized(tc.size, tc.surge, tc.missing))
			if surge != tc.wantSurge || missing != tc.wantMissing {
				t.Errorf("surge %d, unavailable %d; want %d, %d", surge, missing, tc.wantSurge, tc.wantMissing)
			}
		})
	}
	recreate := sized(10, "25%", "25%")
	recreate.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	if surge, missing := bounds(recreate); surge != 0 || missing != 0 {
		t.Errorf("strategy Recreate: surge %d, unavailable %d; want 0, 0", surge, missing)
	}
}

// TestNewSize holds how far the new ReplicaSet grows in one step.
func TestNewSize(t *testing.T) {
	tests := []struct {
		name     string
		size     int32
		surge    string
		old, now int32
		want     int32
	}{
		{"nothing is in the way", 10, "0", 0, 0, 10},
		{"the old ones leave no room", 10, "0", 10, 0, 0},
		{"the surge is the room", 10, "2", 10, 0, 2},
		{"old ones have gone and there is a surge", 10, "2", 5, 0, 7},
		{"the rest", 10, "2", 2, 9, 10},
		{"too large shrinks", 10, "2", 0, 12, 10},
		{"more than allowed already", 3, "1", 9, 1, 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := &rollout{d: sized(tc.size, tc.surge, "0"), new: set(2, tc.now, 0), old: []*appsv1.ReplicaSet{set(1, tc.old, tc.old)}}
			if got := newSize(r); got != tc.want {
				t.Errorf("size %d, want %d", got, tc.want)
			}
		})
	}
}

// TestOldSizes holds how far the old ReplicaSets shrink in one step.
func TestOldSizes(t *testing.T) {
	tests := []struct {
		name    string
		size    int32
		missing string
		new     *appsv1.ReplicaSet
		old     []*appsv1.ReplicaSet
		want    map[string]int32
	}{
		{"none may be missing", 10, "0", set(9, 0, 0), []*appsv1.ReplicaSet{set(1, 10, 10)}, nil},
		{"two may be missing", 10, "2", set(9, 0, 0), []*appsv1.ReplicaSet{set(1, 10, 10)}, map[string]int32{"web-1": 8}},
		{"those not available go first", 10, "2", set(9, 0, 0), []*appsv1.ReplicaSet{set(1, 10, 8)}, map[string]int32{"web-1": 8}},
		{"one not available goes, and one that is", 10, "2", set(9, 0, 0), []*appsv1.ReplicaSet{set(1, 10, 9)}, map[string]int32{"web-1": 8}},
		{"new ones that are not available do not count", 10, "2", set(9, 4, 0), []*appsv1.ReplicaSet{set(1, 8, 8)}, nil},
		{"new ones take the place of old ones", 10, "0", set(9, 2, 2), []*appsv1.ReplicaSet{set(1, 10, 10)}, map[string]int32{"web-1": 8}},
		{"the oldest shrinks first", 10, "0", set(9, 4, 4), []*appsv1.ReplicaSet{set(1, 3, 3), set(2, 7, 7)}, map[string]int32{"web-1": 0, "web-2": 6}},
		{"a status from before it shrank is not counted on", 10, "2", set(9, 5, 3), []*appsv1.ReplicaSet{shrunk(set(1, 10, 10), 8)}, map[string]int32{"web-1": 5}},
		{"none is left", 10, "2", set(9, 10, 5), []*appsv1.ReplicaSet{set(1, 0, 0)}, nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := oldSizes(&rollout{d: sized(tc.size, "100%", tc.missing), new: tc.new, old: tc.old})
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("sizes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestProportional holds Kubernetes' examples of scaling in the middle of a rollout. The first size is the new set's.
func TestProportional(t *testing.T) {
	tests := []struct {
		before, after int32
		sizes, want   []int32
	}{
		{5, 10, []int32{2, 3}, []int32{4, 6}},
		{5, 3, []int32{2, 3}, []int32{1, 2}},
		{9, 4, []int32{8, 1}, []int32{4, 0}},
		{7, 10, []int32{2, 3, 2}, []int32{3, 4, 3}},
		{13, 8, []int32{2, 8, 3}, []int32{1, 5, 2}},
		{3, 4, []int32{1, 1, 1}, []int32{2, 1, 1}},
		{4, 3, []int32{2, 1, 1}, []int32{1, 1, 1}},
		{10, 0, []int32{3, 4, 3}, []int32{0, 0, 0}},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%d to %d", tc.before, tc.after), func(t *testing.T) {
			var live []*appsv1.ReplicaSet
			for i, size := range tc.sizes {
				rs := set(len(tc.sizes)-i, size, size)
				rs.Annotations = map[string]string{maxReplicasAnnotation: strconv.Itoa(int(tc.before))}
				live = append(live, rs)
			}
			d := sized(tc.after, "0", "1")
			d.Status.Replicas = tc.before
			sizes := proportional(d, live)
			var got []int32
			for _, rs := range live {
				got = append(got, sizes[rs.Name])
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("sizes (-want +got):\n%s", diff)
			}
		})
	}
}
