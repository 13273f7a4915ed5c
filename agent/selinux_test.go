package agent_test

import (
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
)

func TestSELinux(t *testing.T) {
	labelled := func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{SELinuxOptions: &v1.SELinuxOptions{Type: "spc_t"}}
	}
	empty := func(p *v1.Pod) {
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{SELinuxOptions: &v1.SELinuxOptions{}}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.agent.SetSELinux(false)
		n.create(newPod("without", labelled))
		n.want("without", "Running app=running/0")
		n.agent.SetSELinux(true)
		n.create(newPod("with", labelled), newPod("empty", labelled, empty))
		n.want("empty", "Running app=running/0")
		n.want("with", "Pending app=CreateContainerConfigError/0")
	})
}
