package agent_test

import (
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
)

func TestAppArmor(t *testing.T) {
	confined := func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}}
	}
	loose := func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}}
	}
	named := func(p *v1.Pod) {
		own := "mine"
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &own}}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.agent.SetAppArmor(false)
		n.create(newPod("confined", confined), newPod("named", loose, named), newPod("loose", loose))
		n.want("loose", "Running app=running/0")
		for _, name := range []string{"confined", "named"} {
			status := n.get(name).Status
			if status.Phase != v1.PodFailed || status.Reason != "AppArmor" ||
				status.Message != "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host" {
				t.Errorf("without AppArmor pod %s is %s, %s, %q", name, status.Phase, status.Reason, status.Message)
			}
		}
		n.agent.SetAppArmor(true)
		n.create(newPod("default", confined), newPod("own", confined, named))
		for pod, want := range map[string]string{"default": "RuntimeDefault", "own": "mine", "loose": ""} {
			config, _ := n.runtime.Config("uid-" + pod + "-app-0")
			if config.Security.AppArmor != want {
				t.Errorf("pod %s has the profile %q, want %q", pod, config.Security.AppArmor, want)
			}
		}
	})
}
