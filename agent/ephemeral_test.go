package agent_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// debug adds an ephemeral container to a pod, as an API server does.
func (n *node) debug(pod string, c v1.EphemeralContainer) {
	n.t.Helper()
	c.ImagePullPolicy = v1.PullIfNotPresent
	p := n.get(pod)
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
	if _, err := n.client.CoreV1().Pods(p.Namespace).Update(n.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	settle(n.t)
}

func looking(name, target string) v1.EphemeralContainer {
	return v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: name, Image: "busybox"}, TargetContainerName: target}
}

// An ephemeral container runs beside the others, sees the processes of its target, and ends without leaving a trace in the pod's health.
func TestEphemeralContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		n.debug("web", looking("look", "app"))
		n.wantContainers("uid-web-app-0 running, uid-web-look-0 running")
		if c, _ := n.runtime.Config("uid-web-look-0"); c.PIDOf != "uid-web-app-0" || c.NetNS == "" {
			t.Errorf("it joins the processes of %q and the network %q, want those of uid-web-app-0 and the pod", c.PIDOf, c.NetNS)
		}
		status := n.get("web").Status.EphemeralContainerStatuses
		if len(status) != 1 || status[0].State.Running == nil || status[0].Ready || status[0].Started != nil {
			t.Errorf("its status is %+v, want running, and nothing about readiness", status)
		}
		n.exit("uid-web-look-0", 3)
		after(t, time.Hour)
		n.want("web", "Running app=running/0")
		n.wantContainers("uid-web-app-0 running, uid-web-look-0 exited")
		if end := n.get("web").Status.EphemeralContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 3 {
			t.Errorf("its end is %+v, want exit code 3", end)
		}
		i := slices.IndexFunc(n.get("web").Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady })
		if n.get("web").Status.Conditions[i].Status != v1.ConditionTrue {
			t.Error("the pod is not ready any more")
		}
	})
}

// What hinders an ephemeral container is told, and hinders nothing else.
func TestEphemeralContainerThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "absent", Image: "absent", ImagePullPolicy: v1.PullNever})
		}))
		odd := looking("odd", "")
		odd.SecurityContext = &v1.SecurityContext{WindowsOptions: &v1.WindowsSecurityContextOptions{RunAsUserName: new(string)}}
		n.debug("web", odd)
		n.debug("web", looking("early", "absent"))
		for i, want := range []string{"skiff cannot run this yet: spec.ephemeralContainers{odd}.securityContext.windowsOptions", "unable to find target container absent"} {
			w := n.get("web").Status.EphemeralContainerStatuses[i].State.Waiting
			if w == nil || w.Reason != "CreateContainerConfigError" || w.Message != want {
				t.Errorf("it waits with %+v, want CreateContainerConfigError and %q", w, want)
			}
			n.mu.Lock()
			if !slices.ContainsFunc(n.told, func(e *v1.Event) bool {
				return strings.Contains(e.Message, want) && strings.HasPrefix(e.InvolvedObject.FieldPath, "spec.ephemeralContainers{")
			}) {
				t.Errorf("no Event says %q", want)
			}
			n.mu.Unlock()
		}
		n.want("web", "Pending app=running/0 absent=ErrImageNeverPull/0")
		n.exit("uid-web-app-0", 1)
		n.want("web", "Pending app=running/1 absent=ErrImageNeverPull/0")
	})
}
