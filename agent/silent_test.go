package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// A container of which the runtime can tell nothing is neither started a second time nor told as ended, and is asked for again; more and
// more seldom, but not without end.
func TestSilentContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.Containers[0].ReadinessProbe = execProbe("true", nil) }))
		n.runtime.HaveAll() // There is a command true.
		after(t, 11*time.Second)
		before := n.get("web").Status
		if err := n.runtime.Silence("uid-web-app-0"); err != nil {
			t.Fatal(err)
		}
		n.stop()
		n.start() // Nobody is told of it otherwise.
		after(t, 10*time.Minute)
		n.wantContainers("uid-web-app-0 unknown")
		n.want("web", "Running app=running/0")
		if now := n.get("web").Status; now.ContainerStatuses[0].Ready != before.ContainerStatuses[0].Ready {
			t.Errorf("the container was ready: %t, and is: %t", before.ContainerStatuses[0].Ready, now.ContainerStatuses[0].Ready)
		}
		told := 0
		for _, event := range n.events("web") {
			if strings.HasPrefix(event, "ContainerStatusUnknown: ") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("that it is not heard of is told %d times: %v", told, n.events("web"))
		}
		if err := n.runtime.Hear("uid-web-app-0"); err != nil {
			t.Fatal(err)
		}
		if err := n.runtime.Exit("uid-web-app-0", 1); err != nil {
			t.Fatal(err)
		}
		after(t, time.Minute)
		n.want("web", "Running app=running/1")
	})
}

// With its pod such a container goes, by force when its grace period is over.
func TestSilentContainerIsKilledWithItsPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		if err := n.runtime.Silence("uid-web-app-0"); err != nil {
			t.Fatal(err)
		}
		n.markDeleted("web", 30)
		after(t, 28*time.Second)
		n.wantContainers("uid-web-app-0 unknown")
		after(t, 3*time.Second)
		n.wantContainers("")
		if !n.gone("web") {
			t.Errorf("the pod is still there: %s", n.state("web"))
		}
		n.wantNothingLeft()
	})
}
