package agent_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/agent/cgroup"
)

// resources reads "cpu=100m memory=64Mi".
func resources(t *testing.T, text string) v1.ResourceList {
	t.Helper()
	list := v1.ResourceList{}
	for _, word := range strings.Fields(text) {
		name, amount, _ := strings.Cut(word, "=")
		list[v1.ResourceName(name)] = resource.MustParse(amount)
	}
	return list
}

// sized gives the pod's container limits, and requests that are the same.
func sized(t *testing.T, text string, policies ...v1.ContainerResizePolicy) func(*v1.Pod) {
	return func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Resources = v1.ResourceRequirements{Requests: resources(t, text), Limits: resources(t, text)}
		if policies != nil {
			c.ResizePolicy = policies
		}
		p.Status.QOSClass = v1.PodQOSGuaranteed
	}
}

func (n *node) update(name string, change func(*v1.Pod)) {
	n.t.Helper()
	pod := n.get(name)
	change(pod)
	pod.Generation++
	if _, err := n.client.CoreV1().Pods("default").Update(n.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	settle(n.t)
}

// has describes the sizes that the status tells of: what was given, and what the container has.
func (n *node) has(name string) string {
	n.t.Helper()
	cs := n.get(name).Status.ContainerStatuses[0]
	return "given " + cs.AllocatedResources.Cpu().String() + "/" + cs.AllocatedResources.Memory().String() +
		" has " + cs.Resources.Limits.Cpu().String() + "/" + cs.Resources.Limits.Memory().String()
}

func (n *node) conditionOf(name string, kind v1.PodConditionType) string {
	n.t.Helper()
	for _, c := range n.get(name).Status.Conditions {
		if c.Type == kind {
			return string(c.Status) + " " + c.Reason + " " + c.Message
		}
	}
	return ""
}

func (n *node) wantSize(name, want string) {
	n.t.Helper()
	if got := n.has(name); got != want {
		n.t.Errorf("pod %s: %s, want %s", name, got, want)
	}
}

// TestResize changes the size of a running pod: in place, by a restart where the policy says so, and not at all where it does
// not fit.
func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", sized(t, "cpu=100m memory=64Mi", v1.ContainerResizePolicy{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer})))
		n.wantSize("web", "given 100m/64Mi has 100m/64Mi")

		n.update("web", sized(t, "cpu=200m memory=64Mi"))
		n.want("web", "Running app=running/0")
		n.wantSize("web", "given 200m/64Mi has 200m/64Mi")
		if c, _ := n.runtime.Config("uid-web-app-0"); c.Resources.CPUQuota != 20_000 {
			t.Errorf("the container's quota is %d", c.Resources.CPUQuota)
		}
		if group, _ := n.runtime.Group("/skiff/uid-web"); group != (cgroup.Limits{CPUShares: 204, CPUQuota: 20_000, CPUPeriod: 100_000, Memory: 64 << 20}) {
			t.Errorf("the pod's group has %+v", group)
		}

		n.update("web", sized(t, "cpu=200m memory=32Mi"))
		after(t, firstRestart)
		n.want("web", "Running app=running/1")
		n.wantSize("web", "given 200m/32Mi has 200m/32Mi")

		n.update("web", sized(t, "cpu=1000 memory=32Mi"))
		n.wantSize("web", "given 200m/32Mi has 200m/32Mi")
		if got := n.conditionOf("web", v1.PodResizePending); !strings.HasPrefix(got, "True Infeasible Node didn't have enough capacity: cpu, requested: 1000000, capacity: ") {
			t.Errorf("more than the node has: %q", got)
		}

		// The next agent still gives what fits, and starts the container with it.
		n.stop()
		n.start()
		n.wantSize("web", "given 200m/32Mi has 200m/32Mi")
		n.exit("uid-web-app-1", 1)
		after(t, firstRestart)
		if c, _ := n.runtime.Config("uid-web-app-2"); c.Resources.CPUQuota != 20_000 {
			t.Errorf("after its end the container's quota is %d", c.Resources.CPUQuota)
		}
		n.update("web", sized(t, "cpu=300m memory=32Mi"))
		n.wantSize("web", "given 300m/32Mi has 300m/32Mi")
		if got := n.conditionOf("web", v1.PodResizePending) + n.conditionOf("web", v1.PodResizeInProgress); got != "" {
			t.Errorf("conditions stay: %q", got)
		}
		n.exit("uid-web-app-2", 1) // With the new size it has not failed before, so it waits for nothing.
		after(t, firstRestart)
		n.want("web", "Running app=running/3")
	})
}

// TestResizeWaitsForRoom defers a resize until another pod has gone.
func TestResizeWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", sized(t, "cpu=100m memory=64Mi")), newPod("large", func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: n.agentCPU(0.9)}
		}))
		n.update("web", func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = n.agentCPU(0.5)
			p.Spec.Containers[0].Resources.Limits[v1.ResourceCPU] = n.agentCPU(0.5)
		})
		if got := n.conditionOf("web", v1.PodResizePending); !strings.HasPrefix(got, "True Deferred Node didn't have enough resource: cpu, requested: ") {
			t.Fatalf("beside the other pod: %q", got)
		}
		n.markDeleted("large", 0)
		after(t, time.Second) // That it has gone is the call to look again.
		if got := n.conditionOf("web", v1.PodResizePending); got != "" {
			t.Errorf("with room: %q", got)
		}
	})
}

// TestResizeWhole changes the size of a pod as a whole: its group has it, and so have the containers without a limit of their own.
func TestResizeWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		whole := func(limits string) func(*v1.Pod) {
			return func(p *v1.Pod) {
				p.Spec.Resources = &v1.ResourceRequirements{Requests: resources(t, "cpu=100m memory=32Mi"), Limits: resources(t, limits)}
				p.Status.QOSClass = v1.PodQOSBurstable
			}
		}
		restart := v1.ContainerResizePolicy{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}
		n.create(newPod("web", whole("cpu=200m memory=64Mi"), func(p *v1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{restart}
			bounded := *p.Spec.Containers[0].DeepCopy()
			bounded.Name, bounded.ResizePolicy = "bounded", nil
			bounded.Resources.Limits = resources(t, "cpu=50m memory=16Mi")
			p.Spec.Containers = append(p.Spec.Containers, bounded)
		}))
		check := func(when, status, container, bounded string, group cgroup.Limits) {
			t.Helper()
			got := n.get("web").Status
			if has := got.Resources.Limits.Cpu().String() + "/" + got.Resources.Limits.Memory().String() + " of " + got.AllocatedResources.Cpu().String(); has != status {
				t.Errorf("%s: the status tells of %s, want %s", when, has, status)
			}
			for id, want := range map[string]string{container: strconv.FormatInt(group.CPUQuota, 10), bounded: "5000"} {
				if c, _ := n.runtime.Config(id); strconv.FormatInt(c.Resources.CPUQuota, 10) != want {
					t.Errorf("%s: the quota of container %s is %d, want %s", when, id, c.Resources.CPUQuota, want)
				}
			}
			if has, _ := n.runtime.Group("/skiff/burstable/uid-web"); has != group {
				t.Errorf("%s: the pod's group has %+v, want %+v", when, has, group)
			}
		}
		limits := func(quota, memory int64) cgroup.Limits {
			return cgroup.Limits{CPUShares: 102, CPUQuota: quota, CPUPeriod: 100_000, Memory: memory << 20}
		}
		check("at first", "200m/64Mi of 100m", "uid-web-app-0", "uid-web-bounded-0", limits(20_000, 64))

		n.update("web", whole("cpu=300m memory=64Mi"))
		n.want("web", "Running app=running/0 bounded=running/0")
		check("with more CPU", "300m/64Mi of 100m", "uid-web-app-0", "uid-web-bounded-0", limits(30_000, 64))

		n.update("web", whole("cpu=300m memory=48Mi"))
		after(t, firstRestart)
		n.want("web", "Running app=running/1 bounded=running/0") // One has a limit of its own.
		check("with less memory", "300m/48Mi of 100m", "uid-web-app-1", "uid-web-bounded-0", limits(30_000, 48))

		n.update("web", func(p *v1.Pod) {
			p.Spec.Resources.Requests[v1.ResourceCPU], p.Spec.Resources.Limits[v1.ResourceCPU] = n.agentCPU(2), n.agentCPU(2)
		})
		if got := n.conditionOf("web", v1.PodResizePending); !strings.HasPrefix(got, "True Infeasible Node didn't have enough capacity: cpu, requested: ") {
			t.Errorf("more than the node has: %q", got)
		}
		n.stop()
		n.start()
		check("with the next agent", "300m/48Mi of 100m", "uid-web-app-1", "uid-web-bounded-0", limits(30_000, 48))
		n.update("web", whole("cpu=100m memory=48Mi"))
		check("with less CPU", "100m/48Mi of 100m", "uid-web-app-1", "uid-web-bounded-0", limits(10_000, 48))
		if got := n.conditionOf("web", v1.PodResizePending) + n.conditionOf("web", v1.PodResizeInProgress); got != "" {
			t.Errorf("conditions stay: %q", got)
		}
	})
}

// firstRestart is longer than it takes to restart a container, or to look again for room.
const firstRestart = 15 * time.Second

// agentCPU is a part of the node's CPU.
func (n *node) agentCPU(part float64) resource.Quantity {
	cpu := n.agent.Allocatable()[v1.ResourceCPU]
	return *resource.NewMilliQuantity(int64(part*float64(cpu.MilliValue())), resource.DecimalSI)
}
