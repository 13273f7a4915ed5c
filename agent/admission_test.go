package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who writes a node's name into a pod gets no more of the node than the scheduler would give.
func TestAdmission(t *testing.T) {
	half := func(n *node) resource.Quantity {
		cpu := n.agent.Allocatable()[v1.ResourceCPU]
		return *resource.NewMilliQuantity(cpu.MilliValue()/2+1, resource.DecimalSI)
	}
	asks := func(cpu resource.Quantity, change func(*v1.Pod)) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.RestartPolicy = v1.RestartPolicyNever
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: cpu, "example.com/dongle": resource.MustParse("1")}
			if change != nil {
				change(p)
			}
		}
	}
	listens := func(ip string, port int32) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: port, HostIP: ip, Protocol: v1.ProtocolTCP}}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"disk": "fast"}}})
		refused := func(name, reason, message string) {
			t.Helper()
			status := n.get(name).Status
			if status.Phase != v1.PodFailed || status.Reason != reason || !strings.HasPrefix(status.Message, "Pod was rejected: "+message) {
				t.Errorf("pod %s is %s, %s, %q; want it refused with %s, %q", name, status.Phase, status.Reason, status.Message, reason, message)
			}
			n.wantEvent(name, reason+": "+strings.TrimPrefix(status.Message, "Pod was rejected: "))
		}
		n.create(newPod("first", asks(half(n), nil)))
		n.want("first", "Running app=running/0")
		n.create(newPod("second", asks(half(n), nil)), newPod("free"))
		refused("second", "OutOfcpu", "Node didn't have enough resource: cpu, requested: ")
		n.want("free", "Running app=running/0")
		n.create(newPod("critical", asks(half(n), func(p *v1.Pod) { p.Spec.Priority = new(int32); *p.Spec.Priority = 2000001000 })))
		n.want("critical", "Running app=running/0")

		n.exit("uid-first-app-0", 0)
		n.exit("uid-critical-app-0", 0)
		after(t, time.Second)
		n.create(newPod("third", asks(half(n), nil)))
		n.want("third", "Running app=running/0") // Who has ended takes nothing.
		n.want("second", "Failed")

		n.create(newPod("sandboxed", func(p *v1.Pod) { p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: half(n)} }))
		refused("sandboxed", "OutOfcpu", "Node didn't have enough resource: cpu, requested: ")

		n.create(newPod("slow", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "slow"} }),
			newPod("fast", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }))
		refused("slow", "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
		n.want("fast", "Running app=running/0")

		n.taint(v1.Taint{Key: "soft", Effect: v1.TaintEffectNoSchedule}, v1.Taint{Key: "gone", Effect: v1.TaintEffectNoExecute})
		n.create(newPod("driven"), newPod("stays", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}} }))
		refused("driven", "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate")
		n.want("stays", "Running app=running/0")
		n.taint()

		n.create(newPod("web", listens("", 8080)))
		n.create(newPod("web2", listens("192.0.2.1", 8080)), newPod("web3", listens("192.0.2.1", 8081)), newPod("web4", listens("192.0.2.2", 8081)))
		refused("web2", "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
		n.want("web3", "Running app=running/0")
		n.want("web4", "Running app=running/0")

		n.create(newPod("tuned", func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
		}))
		refused("tuned", "SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`)

		n.create(newPod("windows", func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }))
		refused("windows", "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")

		n.stop()
		n.start() // What runs is not judged again.
		n.want("third", "Running app=running/0")
		n.create(newPod("fourth", asks(half(n), nil)))
		refused("fourth", "OutOfcpu", "Node didn't have enough resource: cpu, requested: ")
	})
}
