package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/agent"
)

// answers is a command that fails as long as it is told to.
type answers struct {
	code  atomic.Int64
	calls atomic.Int64
}

func (a *answers) run(_ context.Context, _ []string, s agent.Streams) int {
	a.calls.Add(1)
	if code := int(a.code.Load()); code != 0 {
		fmt.Fprint(s.Stdout, "no")
		return code
	}
	return 0
}

func execProbe(command string, change func(*v1.Probe)) *v1.Probe {
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{command}}}, PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1}
	if change != nil {
		change(p)
	}
	return p
}

// events lists what was told about a pod, "Unhealthy: Readiness probe failed: no", the oldest first.
func (n *node) events(name string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for _, e := range n.told {
		if e.InvolvedObject.Name == name {
			all = append(all, e.Reason+": "+e.Message)
		}
	}
	return all
}

func (n *node) wantEvent(name, want string) {
	n.t.Helper()
	if got := n.events(name); !slices.Contains(got, want) {
		n.t.Errorf("pod %s has no event %q; it has\n%s", name, want, strings.Join(got, "\n"))
	}
}

// ready says whether the pod's container and the pod itself are ready. They must agree.
func (n *node) ready(name string) bool {
	n.t.Helper()
	status := n.get(name).Status
	ready := status.ContainerStatuses[0].Ready
	for _, c := range status.Conditions {
		if c.Type == v1.PodReady && (c.Status == v1.ConditionTrue) != ready {
			n.t.Fatalf("the container's ready is %t, the pod's condition %s: %s", ready, c.Status, c.Message)
		}
	}
	return ready
}

func TestReadinessProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var check answers
		check.code.Store(1)
		n.runtime.Install("check", check.run)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("check", func(p *v1.Probe) { p.InitialDelaySeconds, p.SuccessThreshold = 4, 2 })
		}))
		n.want("web", "Running app=running/0")
		after(t, 3*time.Second)
		if check.calls.Load() != 0 || n.ready("web") {
			t.Errorf("after 3 s: %d probes, ready %t, want none before the initial delay", check.calls.Load(), n.ready("web"))
		}
		after(t, 2*time.Second)
		n.wantEvent("web", "Unhealthy: Readiness probe failed: no")
		check.code.Store(0)
		after(t, 10*time.Second)
		if n.ready("web") {
			t.Error("ready after one success, want two")
		}
		after(t, 10*time.Second)
		if !n.ready("web") {
			t.Error("not ready after two successes")
		}
		n.stop() // Another agent takes over what was found.
		n.start()
		if !n.ready("web") {
			t.Error("the restart of the agent made the pod unready")
		}
		check.code.Store(1)
		after(t, 20*time.Second)
		if !n.ready("web") {
			t.Error("unready after two failures, want three")
		}
		after(t, 10*time.Second)
		if n.ready("web") {
			t.Error("ready after three failures")
		}
		n.want("web", "Running app=running/0")
		n.markDeleted("web", 30)
		n.wantNothingLeft()
	})
}

func TestLivenessProbeRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var alive answers
		n.runtime.Install("alive", alive.run)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.Containers[0].LivenessProbe = execProbe("alive", nil) }))
		if !n.ready("web") {
			t.Error("not ready, although only liveness is probed")
		}
		after(t, time.Minute)
		n.want("web", "Running app=running/0")
		alive.code.Store(1)
		after(t, 31*time.Second)
		n.want("web", "Running app=running/1")
		n.wantEvent("web", "Unhealthy: Liveness probe failed: no")
		n.wantEvent("web", "Killing: Container app failed liveness probe, will be restarted")
		after(t, 18*time.Second) // The new container begins anew: three more failures.
		n.want("web", "Running app=running/1")
		after(t, 4*time.Second)
		n.want("web", "Running app=CrashLoopBackOff/1")
		alive.code.Store(0)
		after(t, time.Minute)
		n.want("web", "Running app=running/2")
	})
}

func TestStartupProbeComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var up, alive answers
		up.code.Store(1)
		n.runtime.Install("up", up.run)
		n.runtime.Install("alive", alive.run)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].StartupProbe = execProbe("up", func(p *v1.Probe) { p.FailureThreshold = 4 })
			p.Spec.Containers[0].LivenessProbe = execProbe("alive", nil)
		}))
		after(t, 25*time.Second)
		if cs := n.get("web").Status.ContainerStatuses[0]; alive.calls.Load() != 0 || cs.Ready || *cs.Started {
			t.Errorf("before startup: %d liveness probes, ready %t, started %t", alive.calls.Load(), cs.Ready, *cs.Started)
		}
		up.code.Store(0)
		after(t, 10*time.Second)
		if cs := n.get("web").Status.ContainerStatuses[0]; alive.calls.Load() == 0 || !cs.Ready || !*cs.Started {
			t.Errorf("after startup: %d liveness probes, ready %t, started %t", alive.calls.Load(), cs.Ready, *cs.Started)
		}
		calls := up.calls.Load()
		after(t, time.Minute)
		if up.calls.Load() != calls {
			t.Error("the startup probe goes on after it has passed")
		}
		up.code.Store(1)
		n.exit("uid-web-app-0", 1)
		n.want("web", "Running app=running/1")
		after(t, 31*time.Second)
		n.wantEvent("web", "Killing: Container app failed startup probe, will be restarted")
	})
}

// A hook's command is run as it stands; a probe's has the variables in it that the pod spells out.
func TestCommandsOfProbesAndHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		said := make(chan string, 2)
		n.runtime.Install("say", func(_ context.Context, args []string, _ agent.Streams) int {
			said <- strings.Join(args, " ")
			return 0
		})
		n.create(newPod("web", func(p *v1.Pod) {
			c := &p.Spec.Containers[0]
			c.Env = []v1.EnvVar{{Name: "WORD", Value: "hi"}}
			c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"say", "$$ $(WORD)"}}}}
			c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"say", "$$ $(WORD)"}}}, PeriodSeconds: 3600, TimeoutSeconds: 1}
		}))
		after(t, time.Second)
		if hook, probe := <-said, <-said; hook != "$$ $(WORD)" || probe != "$ hi" {
			t.Errorf("the hook ran %q, the probe %q", hook, probe)
		}
	})
}

// A probe that cannot be carried out says nothing about the container.
func TestProbeThatCannotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.Containers[0].LivenessProbe = execProbe("nothing", nil) }))
		after(t, time.Hour)
		n.want("web", "Running app=running/0")
		n.wantEvent("web", `Unhealthy: Liveness probe errored and resulted in unknown state: exec: "nothing": executable file not found in $PATH`)
	})
}

func TestProbeTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Install("hang", func(ctx context.Context, _ []string, _ agent.Streams) int { <-ctx.Done(); return 137 })
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("hang", func(p *v1.Probe) { p.TimeoutSeconds = 3 })
		}))
		after(t, 4*time.Second)
		n.wantEvent("web", `Unhealthy: Readiness probe failed: command timed out: "hang" timed out after 3s`)
	})
}

func TestPostStartHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var fail answers
		n.runtime.Install("greet", func(ctx context.Context, args []string, s agent.Streams) int {
			time.Sleep(5 * time.Second)
			return fail.run(ctx, args, s)
		})
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"greet"}}}}
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "two", Image: "busybox", ImagePullPolicy: v1.PullNever})
		}))
		n.want("web", "Pending app=ContainerCreating/0 two=ContainerCreating/0")
		n.wantContainers("uid-web-app-0 running")
		after(t, 5*time.Second)
		n.want("web", "Running app=running/0 two=running/0")
		n.runtime.IgnoreSignals()
		fail.code.Store(1)
		n.exit("uid-web-app-0", 1)
		after(t, 5*time.Second)
		n.wantEvent("web", "FailedPostStartHook: PostStartHook failed")
		n.want("web", "Running app=PostStartHookError/1 two=running/0") // It is being killed, and not ready meanwhile.
		after(t, 30*time.Second)
		n.wantEvent("web", "Killing: FailedPostStartHook")
		n.want("web", "Running app=CrashLoopBackOff/1 two=running/0")
	})
}

func TestPreStopHook(t *testing.T) {
	for _, tc := range []struct {
		name string
		hook v1.LifecycleHandler
		runs time.Duration // How long the container lives after it was asked to end, with 10 s of grace.
	}{
		{"sleep", v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 4}}, 4 * time.Second},
		{"exec", v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}}, 6 * time.Second},
		{"too long", v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 60}}, 10 * time.Second},
		{"failing", v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"nothing"}}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.runtime.Install("bye", func(context.Context, []string, agent.Streams) int { time.Sleep(6 * time.Second); return 0 })
				n.create(newPod("web", func(p *v1.Pod) { p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &tc.hook} }))
				n.markDeleted("web", 10)
				if tc.runs > 0 {
					after(t, tc.runs-time.Second)
					n.wantContainers("uid-web-app-0 running")
				} else {
					n.wantEvent("web", "FailedPreStopHook: PreStopHook failed")
				}
				n.wantEvent("web", "Killing: Stopping container app")
				after(t, 2*time.Second)
				if !n.gone("web") {
					t.Errorf("the pod is still there: %s", n.state("web"))
				}
				n.wantNothingLeft()
			})
		})
	}
}

// An agent that is killed between the start of a container and the pod's status leaves a pod whose address only its network knows.
func TestPreStopHookOfAPodWithoutAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 4}}}
		}))
		n.stop()
		pod := n.get("web")
		address := pod.Status.PodIP
		pod.Status.PodIP, pod.Status.PodIPs = "", nil
		if _, err := n.client.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		n.markDeleted("web", 10)
		n.start()
		settle(t)
		n.wantContainers("uid-web-app-0 running")
		if now := n.get("web").Status.PodIP; now != address || now == "" {
			t.Errorf("while its hook runs the pod has the address %q, and had %q", now, address)
		}
		after(t, 5*time.Second)
		if !n.gone("web") {
			t.Errorf("the pod is still there: %s", n.state("web"))
		}
		n.wantNothingLeft()
	})
}

func TestEmptyDirOverItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		limit := resource.MustParse("1Mi")
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "cache", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "cache", MountPath: "/cache"}}
		}))
		pods, _, _ := n.agent.Dirs()
		fill := func(name string, size int) {
			if err := os.WriteFile(filepath.Join(pods, "uid-web", "volumes", "cache", name), make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fill("little", 1<<19)
		after(t, time.Minute)
		n.want("web", "Running app=running/0")
		fill("much", 1<<20)
		after(t, 12*time.Second)
		n.want("web", "Failed app=Completed(0)/0")
		want := `Usage of EmptyDir volume "cache" exceeds the limit "1Mi". `
		if got := n.get("web").Status; got.Reason != "Evicted" || got.Message != want {
			t.Errorf("reason %q, message %q; want Evicted, %q", got.Reason, got.Message, want)
		}
		n.wantEvent("web", "Evicted: "+want)
		_, _, logs := n.agent.Dirs()
		left, err := os.ReadDir(logs)
		if n.wantContainers(""); err != nil || len(left) > 0 {
			t.Errorf("an evicted pod leaves the logs %v (%v)", left, err)
		}
		n.stop()
		n.start()
		n.want("web", "Failed app=Completed(0)/0")
	})
}
