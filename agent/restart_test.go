package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// A rule may have all containers start anew, those that have done their work too.
func TestRestartAllContainers(t *testing.T) {
	never := v1.ContainerRestartPolicyNever
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.RestartPolicy = v1.RestartPolicyNever
			p.Spec.InitContainers = []v1.Container{{Name: "init", Image: "busybox", ImagePullPolicy: v1.PullNever}}
			p.Spec.Containers[0].RestartPolicy = &never
			p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "other", Image: "busybox", ImagePullPolicy: v1.PullNever})
		}))
		n.exit("uid-web-init-0", 0)
		n.exit("uid-web-other-0", 0)
		n.want("web", "Running init=Completed(0)/0 app=running/0 other=Completed(0)/0")
		restarting := func() v1.PodCondition {
			return conditionOfPod(n.get("web"), v1.AllContainersRestarting)
		}
		if c := restarting(); c.Status != v1.ConditionFalse {
			t.Errorf("before the restart: %+v", c)
		}
		addresses := n.get("web").Status.PodIPs
		n.exit("uid-web-app-0", 42)
		n.want("web", "Pending init=running/1 app=RestartingAllContainers/0 other=RestartingAllContainers/0")
		if c := conditionOfPod(n.get("web"), v1.PodInitialized); c.Status != v1.ConditionTrue {
			t.Errorf("a pod that was initialized once is %+v while its init containers run again", c)
		}
		n.exit("uid-web-init-1", 0)
		n.want("web", "Running init=Completed(0)/1 app=running/1 other=running/1")
		if now := n.get("web").Status.PodIPs; len(now) != 1 || now[0] != addresses[0] {
			t.Errorf("after the restart the pod has the addresses %v, not %v", now, addresses)
		}
		n.stop()
		n.start()
		settle(t)
		n.want("web", "Running init=Completed(0)/1 app=running/1 other=running/1")

		n.exit("uid-web-app-1", 42) // Too soon after the last time.
		n.want("web", "Running init=RestartingAllContainers/1 app=CrashLoopBackOff/1 other=RestartingAllContainers/1")
		if c := restarting(); c.Status != v1.ConditionTrue || c.Reason != "RestartAllContainersStarted" {
			t.Errorf("during the restart: %+v", c)
		}
		n.wantContainers("uid-web-app-0 exited, uid-web-app-1 exited, uid-web-init-0 exited, uid-web-init-1 exited, uid-web-other-0 exited, uid-web-other-1 exited")
		after(t, 10*time.Second)
		n.exit("uid-web-init-2", 0)
		n.exit("uid-web-other-2", 0)
		n.exit("uid-web-app-2", 1)
		n.want("web", "Failed init=Completed(0)/2 app=Error(1)/2 other=Completed(0)/2")
		if c := restarting(); c.Status != v1.ConditionFalse || c.Reason != "PodFailed" {
			t.Errorf("after the pod's end: %+v", c)
		}
	})
}

func conditionOfPod(pod *v1.Pod, kind v1.PodConditionType) v1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.PodCondition{Type: kind, Status: "missing"}
}
