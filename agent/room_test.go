package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Of pods that wait for room, all see the same one as the next: what others ask for and do not have keeps none from growing.
func TestRoomIsGivenInTurn(t *testing.T) {
	cpus := func(n int64) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: *resource.NewQuantity(n, resource.DecimalSI)}
	}
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	pod := func(name string, has, wants int64, changes ...func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Status: v1.PodStatus{AllocatedResources: cpus(has), QOSClass: v1.PodQOSBurstable}}
		p.Spec.Containers = []v1.Container{{Name: "app", Resources: v1.ResourceRequirements{Requests: cpus(wants)}}}
		for _, change := range changes {
			change(p)
		}
		return p
	}
	since := func(minute int) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: v1.PodReasonDeferred,
				LastTransitionTime: metav1.NewTime(noon.Add(time.Duration(minute) * time.Minute))}}
		}
	}
	important := func(p *v1.Pod) { p.Spec.Priority = new(int32(1000)) }
	guaranteed := func(p *v1.Pod) { p.Status.QOSClass = v1.PodQOSGuaranteed }
	for name, tc := range map[string]struct {
		pods []*v1.Pod // On a node with 10 CPUs.
		want string
	}{
		"alone":                      {[]*v1.Pod{pod("a", 1, 6)}, "a"},
		"beside one that has enough": {[]*v1.Pod{pod("a", 1, 6), pod("b", 4, 4)}, "a b"},
		"beside one that has more":   {[]*v1.Pod{pod("a", 1, 6), pod("b", 5, 5)}, "b"},
		"the one that waits longest": {[]*v1.Pod{pod("a", 1, 6, since(2)), pod("b", 1, 6, since(1)), pod("c", 1, 6)}, "b"},
		"before it a Guaranteed one": {[]*v1.Pod{pod("a", 1, 6, since(2), guaranteed), pod("b", 1, 6, since(1))}, "a"},
		"before that an important":   {[]*v1.Pod{pod("a", 1, 6, since(2), guaranteed), pod("b", 1, 6, since(3), important)}, "b"},
		"and both where both fit":    {[]*v1.Pod{pod("a", 1, 4, since(1)), pod("b", 1, 6, since(2))}, "a b"},
		"one that never fits":        {[]*v1.Pod{pod("a", 1, 11, important), pod("b", 1, 6)}, "b"},
		"who wants less makes room":  {[]*v1.Pod{pod("a", 1, 6, important), pod("b", 8, 2)}, "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for i, p := range tc.pods {
				if fitsBeside(p, slices.Delete(slices.Clone(tc.pods), i, i+1), cpus(10)) == nil {
					got = append(got, p.Name)
				}
			}
			if text := strings.Join(got, " "); text != tc.want {
				t.Errorf("given to %q, want %q", text, tc.want)
			}
		})
	}
}
