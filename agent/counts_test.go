package agent

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// Each start, end and failure is counted once: when the API is told of it first.
func TestCounts(t *testing.T) {
	status := func(id string, state v1.ContainerState, last *v1.ContainerStateTerminated) v1.ContainerStatus {
		return v1.ContainerStatus{Name: "app", ContainerID: id, State: state, LastTerminationState: v1.ContainerState{Terminated: last}}
	}
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	ended := func(id string, code int32, reason string) *v1.ContainerStateTerminated {
		return &v1.ContainerStateTerminated{ContainerID: id, ExitCode: code, Reason: reason}
	}
	waits := func(reason, message string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	first := status("one", running, nil)
	crashed := status("one", waits(reasonCrashLoop, ""), ended("one", 139, "Error"))
	for name, tc := range map[string]struct {
		from, to v1.ContainerStatus
		want     []string
	}{
		"it starts":            {status("", waits(reasonCreating, ""), nil), first, []string{"started_containers_total container"}},
		"it runs on":           {first, first, nil},
		"it ends":              {first, status("one", v1.ContainerState{Terminated: ended("one", 0, "Completed")}, nil), []string{"terminated_containers_total container 0 Completed"}},
		"it ends and waits":    {first, crashed, []string{"terminated_containers_total container 139 Error"}},
		"it waits on":          {crashed, crashed, nil},
		"it starts again":      {crashed, status("two", running, ended("one", 139, "Error")), []string{"started_containers_total container"}},
		"its image is awaited": {status("", waits(reasonCreating, ""), nil), status("", waits(reasonPull, "m"), nil), []string{"started_containers_errors_total container ErrImagePull", "started_containers_total container"}},
		"its image keeps it":   {status("", waits(reasonPull, "m"), nil), status("", waits(reasonPullBackoff, "m"), nil), nil},
		"it has no such program": {status("", waits(reasonCreating, ""), nil), status("one", waits(reasonRunError, "m"), ended("one", 128, reasonStartError)), []string{
			"started_containers_errors_total container RunContainerError", "started_containers_total container", "terminated_containers_total container 128 StartError"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCounts()
			pod := &v1.Pod{Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{tc.from}}}
			c.changed(pod, &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{tc.to}})
			if diff := cmp.Diff(tc.want, counted(t, c)); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
		})
	}
}

// A pod is counted as its namespaces are there; one with users of its own also apart, with whatever fails of it.
func TestCountsOfPods(t *testing.T) {
	c := newCounts()
	setUp := v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue}}}
	pod := &v1.Pod{Spec: v1.PodSpec{HostUsers: new(false)}}
	c.notSetUp(pod)
	c.changed(pod, &setUp)
	pod.Status = setUp
	failed := *setUp.DeepCopy()
	failed.InitContainerStatuses = []v1.ContainerStatus{{Name: "first", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonCreateError}}}}
	c.changed(pod, &failed)
	c.changed(&v1.Pod{}, &setUp)
	want := []string{"started_containers_errors_total init_container CreateContainerError", "started_containers_total init_container", "started_pods_errors_total",
		"started_pods_total x2", "started_user_namespaced_pods_errors_total x2", "started_user_namespaced_pods_total"}
	if diff := cmp.Diff(want, counted(t, c)); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
}

// counted lists the counters that are not zero, with the values of their labels, and how often if that is not once.
func counted(t *testing.T, c *counts) (list []string) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			text := family.GetName()[len("kubelet_"):]
			for _, at := range []string{"container_type", "code", "exit_code", "reason"} {
				for _, label := range m.GetLabel() {
					if label.GetName() == at {
						text += " " + label.GetValue()
					}
				}
			}
			switch n := m.GetCounter().GetValue(); {
			case n > 1:
				list = append(list, fmt.Sprintf("%s x%v", text, n))
			case n > 0:
				list = append(list, text)
			}
		}
	}
	slices.Sort(list)
	return list
}
