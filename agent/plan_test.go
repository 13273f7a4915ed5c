package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const thisBoot = "boot-2"

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// have reads containers as a person writes them: "app-1 exited 3 ran=20s ago=5s backoff=10s boot=boot-1".
func have(t *testing.T, text string) []Container {
	t.Helper()
	var list []Container
	for _, line := range strings.Split(text, ";") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		name, attempt, _ := strings.Cut(fields[0], "-")
		c := Container{ID: fields[0], Name: name, Image: "nginx", State: State(fields[1]), Labels: map[string]string{labelBoot: thisBoot}}
		if _, err := fmt.Sscan(attempt, &c.Attempt); err != nil {
			t.Fatalf("container %q: %v", line, err)
		}
		ran, ago := time.Minute, time.Duration(0)
		for _, field := range fields[2:] {
			key, value, _ := strings.Cut(field, "=")
			duration, _ := time.ParseDuration(value)
			switch key {
			case "ran":
				ran = duration
			case "ago":
				ago = duration
			case "backoff":
				c.Labels[labelBackoff] = value
			case "boot":
				c.Labels[labelBoot] = value
			case "cpu":
				c.Labels[labelSize] = size{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}}.String()
			case "round":
				c.Labels[labelRound] = value
			case "image":
				c.Image = value
			case "unknown":
				c.Unknown = true
			case "unstarted":
				c.StartError = "no such program"
			default:
				if _, err := fmt.Sscan(field, &c.ExitCode); err != nil {
					t.Fatalf("container %q: what is %q?", line, field)
				}
			}
		}
		c.Finished = noon.Add(-ago)
		if c.StartError == "" {
			c.Started = c.Finished.Add(-ran)
		}
		list = append(list, c)
	}
	return list
}

// tellDecision writes a decision as have reads containers.
func tellDecision(d decision) string {
	var words []string
	for _, s := range d.stop {
		verb := "stop"
		switch {
		case s.kill:
			verb = "kill"
		case s.hook:
			verb = "preStop"
		}
		words = append(words, verb+" "+s.id)
	}
	for _, c := range d.remove {
		words = append(words, "remove "+c.ID)
	}
	for _, s := range d.start {
		words = append(words, fmt.Sprintf("start %s-%d backoff=%s", s.container.Name, s.attempt, s.backoff))
	}
	for name, delay := range d.waiting {
		words = append(words, fmt.Sprintf("%s waits %s", name, delay))
	}
	if d.fail != nil {
		words = append(words, "fail "+d.fail.reason)
	}
	if d.ended {
		words = append(words, "ended")
	}
	if d.again > 0 {
		words = append(words, "again "+d.again.String())
	}
	return strings.Join(words, ", ")
}

func TestDecide(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	status := func(cs v1.ContainerStatus) func(*v1.Pod) {
		return func(p *v1.Pod) { cs.Name = "app"; p.Status.ContainerStatuses = []v1.ContainerStatus{cs} }
	}
	inits := func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "side", Image: "nginx", RestartPolicy: &always}, {Name: "init", Image: "nginx"}}
	}
	policy := func(policy v1.RestartPolicy) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.RestartPolicy = policy } }
	deleted := func(grace int64) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: noon}, &grace
		}
	}
	probed := func(p *v1.Pod) {
		p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].StartupProbe = &v1.Probe{TerminationGracePeriodSeconds: new(int64)}, &v1.Probe{}
		*p.Spec.Containers[0].LivenessProbe.TerminationGracePeriodSeconds = 7
	}
	both := &v1.Lifecycle{PostStart: &v1.LifecycleHandler{}, PreStop: &v1.LifecycleHandler{}}
	hooked := func(p *v1.Pod) { p.Spec.Containers[0].Lifecycle = both }
	sideHook := func(p *v1.Pod) { p.Spec.InitContainers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{}} }
	cpu := func(amount string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(amount)}
		}
	}
	second := func(p *v1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "two", Image: "nginx"})
	}
	looked := func(p *v1.Pod) {
		look := v1.EphemeralContainerCommon{Name: "look", Image: "nginx"}
		p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: look}}
	}
	own := func(policy v1.ContainerRestartPolicy) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].RestartPolicy = &policy }
	}
	rule := func(op v1.ContainerRestartRuleOnExitCodesOperator, action v1.ContainerRestartRuleAction, codes ...int32) func(*v1.Pod) {
		return func(p *v1.Pod) {
			c := &p.Spec.Containers[0]
			c.RestartPolicyRules = append(c.RestartPolicyRules, v1.ContainerRestartRule{Action: action,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}})
		}
	}
	again := rule(v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleActionRestart, 42)
	anew := rule(v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleActionRestartAllContainers, 42)
	for _, tc := range []struct {
		name        string
		pod         []func(*v1.Pod)
		have        string
		told        map[string]time.Duration // Ago.
		unsignalled time.Duration            // Ago: app-0 was asked, by its hook only.
		trouble     map[string]trouble
		health      map[string]health
		hooks       map[hookOf]hookRun
		want        string
	}{
		{name: "a new pod", want: "start app-0 backoff=0s"},
		{name: "it runs", have: "app-0 running", want: ""},
		{name: "left by an agent that was killed in between", have: "app-0 created", want: "remove app-0, start app-0 backoff=0s"},
		{name: "first exit", have: "app-0 exited 1 backoff=0s", want: "start app-1 backoff=10s"},
		{name: "second exit", have: "app-1 exited 1 ago=4s backoff=10s", want: "app waits 10s, again 6s"},
		{name: "its back-off is over", have: "app-1 exited 1 ago=10s backoff=10s", want: "start app-2 backoff=20s"},
		{name: "back-off has a maximum", have: "app-9 exited 1 ago=300s backoff=5m0s", want: "start app-10 backoff=5m0s"},
		{name: "it ran long enough to start afresh", have: "app-9 exited 1 ran=11m backoff=5m0s", want: "start app-10 backoff=10s"},
		{name: "older dead ones go", have: "app-1 exited; app-2 exited; app-3 running", want: "remove app-1"},
		{name: "gone with a reboot", pod: []func(*v1.Pod){status(v1.ContainerStatus{ContainerID: "containerd://x", RestartCount: 4,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}})}, want: "start app-5 backoff=10s"},
		{name: "it had completed before the reboot", pod: []func(*v1.Pod){policy(v1.RestartPolicyOnFailure), status(v1.ContainerStatus{ContainerID: "containerd://x",
			State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}})}, want: "ended"},
		{name: "its task went with the reboot, its end was told", pod: []func(*v1.Pod){policy(v1.RestartPolicyOnFailure), status(v1.ContainerStatus{
			State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: "containerd://app-0"}}})},
			have: "app-0 exited 137 unknown", want: "ended"},
		{name: "another's end was told", pod: []func(*v1.Pod){policy(v1.RestartPolicyOnFailure), status(v1.ContainerStatus{
			State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: "containerd://app-0"}}})},
			have: "app-1 exited 137 unknown", want: "start app-2 backoff=10s"},
		{name: "it could not be started", have: "app-0 exited 128 unstarted backoff=0s", want: "start app-1 backoff=10s, again 1s"},
		{name: "nor the second time", have: "app-1 exited 128 unstarted ago=4s backoff=10s", want: "app waits 10s, again 6s"},
		{name: "nor ever, which is no long run", have: "app-9 exited 128 unstarted ago=300s backoff=5m0s", want: "start app-10 backoff=5m0s, again 1s"},
		{name: "it may be tried once only", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever)}, have: "app-0 exited 128 unstarted", want: "ended"},
		{name: "an ephemeral container that could not be started", pod: []func(*v1.Pod){looked}, have: "app-0 running; look-0 exited 128 unstarted", want: ""},
		{name: "a start that failed has its turn in the next round", pod: []func(*v1.Pod){second, policy(v1.RestartPolicyNever), anew},
			have: "app-0 exited 42; two-0 exited 128 unstarted", want: "start app-1 backoff=10s, start two-1 backoff=0s, again 1s"},
		{name: "an image is waited for in any round", pod: []func(*v1.Pod){second, anew}, have: "app-0 exited 42",
			trouble: map[string]trouble{"two": {reason: reasonPull, at: noon.Add(-10 * time.Second), delay: time.Minute}},
			want:    "start app-1 backoff=10s, again 50s"},
		{name: "done", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever)}, have: "app-0 exited 1", want: "ended"},
		{name: "another image", have: "app-0 running image=old", want: "stop app-0, again 30s"},
		{name: "replaced by the agent", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever)}, have: "app-0 exited image=old",
			told: map[string]time.Duration{"app-0": time.Second}, want: "start app-1 backoff=10s"},
		{name: "another image instead of one that failed often", have: "app-8 exited image=old backoff=5m0s",
			told: map[string]time.Duration{"app-8": time.Second}, want: "start app-9 backoff=10s"},
		{name: "another image while the last one's back-off lasts", have: "app-8 exited 1 image=old ago=4s backoff=5m0s", want: "start app-9 backoff=10s"},
		{name: "another size while the last one's back-off lasts", pod: []func(*v1.Pod){cpu("100m")}, have: "app-8 exited 1 cpu=50m ago=4s backoff=5m0s",
			want: "start app-9 backoff=10s"},
		{name: "the same size in other words", pod: []func(*v1.Pod){cpu("0.1")}, have: "app-8 exited 1 cpu=100m ago=4s backoff=5m0s",
			want: "app waits 5m0s, again 4m56s"},
		{name: "the sidecar is first", pod: []func(*v1.Pod){inits}, want: "start side-0 backoff=0s"},
		{name: "then the init container", pod: []func(*v1.Pod){inits}, have: "side-0 running", want: "start init-0 backoff=0s"},
		{name: "nothing else meanwhile", pod: []func(*v1.Pod){inits}, have: "side-0 running; init-0 running", want: ""},
		{name: "it failed", pod: []func(*v1.Pod){inits}, have: "side-0 running; init-0 exited 1", want: "start init-1 backoff=10s"},
		{name: "it failed for good", pod: []func(*v1.Pod){inits, policy(v1.RestartPolicyNever)}, have: "side-0 running; init-0 exited 1", want: "stop side-0, again 30s"},
		{name: "then the others", pod: []func(*v1.Pod){inits}, have: "side-0 running; init-0 exited", want: "start app-0 backoff=0s"},
		{name: "a sidecar that died comes back", pod: []func(*v1.Pod){inits}, have: "side-0 exited; init-0 exited; app-0 running", want: "start side-1 backoff=10s"},
		{name: "init containers run again after a reboot", pod: []func(*v1.Pod){inits},
			have: "side-0 running; init-0 exited boot=boot-1; app-0 exited 137 boot=boot-1", want: "start init-1 backoff=10s"},
		{name: "and if all containers are lost", pod: []func(*v1.Pod){inits, func(p *v1.Pod) {
			p.Status.InitContainerStatuses = []v1.ContainerStatus{{Name: "init", ContainerID: "containerd://x", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}}}
		}}, have: "side-0 running", want: "start init-1 backoff=10s"},
		{name: "a sidecar ends with the pod", pod: []func(*v1.Pod){inits, policy(v1.RestartPolicyNever)},
			have: "side-0 running; init-0 exited; app-0 exited", want: "stop side-0, again 30s"},
		{name: "deleted", pod: []func(*v1.Pod){inits, deleted(20)}, have: "side-0 running; init-0 exited; app-0 running", want: "stop app-0, again 20s"},
		{name: "it takes its time", pod: []func(*v1.Pod){deleted(20)}, have: "app-0 running",
			told: map[string]time.Duration{"app-0": 15 * time.Second}, want: "again 5s"},
		{name: "its time is over", pod: []func(*v1.Pod){deleted(20)}, have: "app-0 running",
			told: map[string]time.Duration{"app-0": 20 * time.Second}, want: "kill app-0, again 5s"},
		{name: "no grace", pod: []func(*v1.Pod){deleted(0)}, have: "app-0 running", want: "stop app-0, again 2s"},
		{name: "which is two seconds all the same", pod: []func(*v1.Pod){deleted(0)}, have: "app-0 running",
			told: map[string]time.Duration{"app-0": time.Second}, want: "again 1s"},
		{name: "and no more", pod: []func(*v1.Pod){deleted(0)}, have: "app-0 running",
			told: map[string]time.Duration{"app-0": 2 * time.Second}, want: "kill app-0, again 5s"},
		{name: "the sidecar's turn, with what time is left", pod: []func(*v1.Pod){inits, deleted(20)}, have: "side-0 running; app-0 exited",
			told: map[string]time.Duration{"app-0": 15 * time.Second}, want: "stop side-0, again 5s"},
		{name: "all have ended", pod: []func(*v1.Pod){deleted(20)}, have: "app-0 exited", want: "ended"},
		{name: "deleted before it ran", pod: []func(*v1.Pod){deleted(20)}, want: "ended"},
		{name: "failed by somebody else", pod: []func(*v1.Pod){func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }}, have: "app-0 running", want: "stop app-0, again 30s"},
		{name: "a start that failed waits", trouble: map[string]trouble{"app": {reason: reasonCreateError, at: noon.Add(-4 * time.Second), delay: 10 * time.Second}}, want: "again 6s"},
		{name: "and is tried again", trouble: map[string]trouble{"app": {reason: reasonCreateError, at: noon.Add(-10 * time.Second), delay: 10 * time.Second}},
			want: "start app-0 backoff=0s, again 30s"},
		{name: "past its deadline", pod: []func(*v1.Pod){func(p *v1.Pod) {
			p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = new(int64), &metav1.Time{Time: noon.Add(-time.Minute)}
			*p.Spec.ActiveDeadlineSeconds = 60
		}}, have: "app-0 running", want: "stop app-0, fail DeadlineExceeded, again 30s"},
		{name: "not alive", pod: []func(*v1.Pod){probed}, have: "app-0 running", health: map[string]health{"app-0": {failed: livenessProbe}}, want: "stop app-0, again 7s"},
		{name: "never came alive", pod: []func(*v1.Pod){probed}, have: "app-0 running", health: map[string]health{"app-0": {failed: startupProbe}}, want: "stop app-0, again 30s"},
		{name: "not alive and ended well", pod: []func(*v1.Pod){probed, policy(v1.RestartPolicyOnFailure)}, have: "app-0 exited", health: map[string]health{"app-0": {failed: livenessProbe}},
			want: "start app-1 backoff=10s"},
		{name: "not alive, once only", pod: []func(*v1.Pod){probed, policy(v1.RestartPolicyNever)}, have: "app-0 exited", health: map[string]health{"app-0": {failed: livenessProbe}}, want: "ended"},
		{name: "a sidecar that has not started holds up", pod: []func(*v1.Pod){inits}, have: "side-0 running", health: map[string]health{"side-0": {}}, want: ""},
		{name: "a sidecar that is not ready does not", pod: []func(*v1.Pod){inits}, have: "side-0 running", health: map[string]health{"side-0": {started: true}}, want: "start init-0 backoff=0s"},
		{name: "what comes after a postStart hook waits", pod: []func(*v1.Pod){hooked, second}, want: "start app-0 backoff=0s"},
		{name: "while it runs", pod: []func(*v1.Pod){hooked, second}, have: "app-0 running", hooks: map[hookOf]hookRun{{postStart, "app-0"}: {running: true}}, want: ""},
		{name: "until it is done", pod: []func(*v1.Pod){hooked, second}, have: "app-0 running", hooks: map[hookOf]hookRun{{postStart, "app-0"}: {}}, want: "start two-0 backoff=0s"},
		{name: "a postStart hook that failed", pod: []func(*v1.Pod){hooked}, have: "app-0 running", hooks: map[hookOf]hookRun{{postStart, "app-0"}: {failed: true}}, want: "preStop app-0, again 30s"},
		{name: "deleted with a preStop hook", pod: []func(*v1.Pod){hooked, deleted(20)}, have: "app-0 running", want: "preStop app-0, again 20s"},
		{name: "which runs", pod: []func(*v1.Pod){hooked, deleted(20)}, have: "app-0 running", unsignalled: 5 * time.Second,
			hooks: map[hookOf]hookRun{{preStop, "app-0"}: {running: true}}, want: "again 15s"},
		{name: "which is done", pod: []func(*v1.Pod){hooked, deleted(20)}, have: "app-0 running", unsignalled: 5 * time.Second,
			hooks: map[hookOf]hookRun{{preStop, "app-0"}: {}}, want: "stop app-0, again 15s"},
		{name: "which takes too long", pod: []func(*v1.Pod){hooked, deleted(20)}, have: "app-0 running", unsignalled: 20 * time.Second,
			hooks: map[hookOf]hookRun{{preStop, "app-0"}: {running: true}}, want: "stop app-0, again 2s"},
		{name: "no grace, and a second for the hook", pod: []func(*v1.Pod){hooked, deleted(0)}, have: "app-0 running", want: "preStop app-0, again 1s"},
		{name: "a sidecar's hook runs at once", pod: []func(*v1.Pod){inits, sideHook, deleted(20)}, have: "side-0 running; init-0 exited; app-0 running", want: "preStop side-0, stop app-0, again 20s"},
		{name: "an ephemeral container comes", pod: []func(*v1.Pod){looked}, have: "app-0 running", want: "start look-0 backoff=0s"},
		{name: "also while init containers run", pod: []func(*v1.Pod){inits, looked}, have: "side-0 running; init-0 running", want: "start look-0 backoff=0s"},
		{name: "it runs beside the others", pod: []func(*v1.Pod){looked}, have: "app-0 running; look-0 running", want: ""},
		{name: "once only", pod: []func(*v1.Pod){looked}, have: "app-0 running; look-0 exited 1", want: ""},
		{name: "not after a reboot either", pod: []func(*v1.Pod){looked, func(p *v1.Pod) {
			p.Status.EphemeralContainerStatuses = []v1.ContainerStatus{{Name: "look", ContainerID: "containerd://x", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
		}}, have: "app-0 running", want: ""},
		{name: "nothing waits for it", pod: []func(*v1.Pod){looked, policy(v1.RestartPolicyNever)}, have: "app-0 exited; look-0 running", want: "stop look-0, again 30s"},
		{name: "its own policy goes before the pod's", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), second}, have: "app-0 exited 1; two-0 exited 1", want: "start two-1 backoff=10s"},
		{name: "on failure only", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever), own(v1.ContainerRestartPolicyOnFailure)}, have: "app-0 exited", want: "ended"},
		{name: "it failed, and the pod's others may not come back", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever), own(v1.ContainerRestartPolicyOnFailure), second},
			have: "app-0 exited 1; two-0 exited 1", want: "start app-1 backoff=10s"},
		{name: "a container that always restarts is no sidecar", pod: []func(*v1.Pod){policy(v1.RestartPolicyNever), own(v1.ContainerRestartPolicyAlways), second},
			have: "app-0 running; two-0 exited", want: ""},
		{name: "an init container that may fail once only", pod: []func(*v1.Pod){inits, func(p *v1.Pod) {
			p.Spec.InitContainers[1].RestartPolicy = new(v1.ContainerRestartPolicy)
			*p.Spec.InitContainers[1].RestartPolicy = v1.ContainerRestartPolicyNever
		}}, have: "side-0 running; init-0 exited 1", want: "stop side-0, again 30s"},
		{name: "a rule for its exit code", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), again}, have: "app-0 exited 42", want: "start app-1 backoff=10s"},
		{name: "another exit code", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), again}, have: "app-0 exited 41", want: "ended"},
		{name: "all exit codes but", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever),
			rule(v1.ContainerRestartRuleOnExitCodesOpNotIn, v1.ContainerRestartRuleActionRestart, 42)}, have: "app-0 exited 41", want: "start app-1 backoff=10s"},
		{name: "all start anew: what runs is ended", pod: []func(*v1.Pod){inits, sideHook, own(v1.ContainerRestartPolicyNever), anew, second},
			have: "side-0 running; init-0 exited; app-0 exited 42; two-0 running", want: "stop side-0, stop two-0, again 2s"},
		{name: "then the first starts", pod: []func(*v1.Pod){inits, own(v1.ContainerRestartPolicyNever), anew},
			have: "side-0 exited 137; init-0 exited; app-0 exited 42", want: "start side-1 backoff=0s"},
		{name: "and the next", pod: []func(*v1.Pod){inits, own(v1.ContainerRestartPolicyNever), anew},
			have: "side-0 exited 137; side-1 running round=1; init-0 exited; app-0 exited 42", want: "start init-1 backoff=0s"},
		{name: "all of them", pod: []func(*v1.Pod){inits, policy(v1.RestartPolicyNever), own(v1.ContainerRestartPolicyNever), anew, second},
			have: "side-1 running round=1; init-1 exited round=1; app-0 exited 42; two-0 exited", want: "start app-1 backoff=10s, start two-1 backoff=0s"},
		{name: "then it is over", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), anew, policy(v1.RestartPolicyNever), second},
			have: "app-0 exited 42; app-1 exited round=1; two-1 exited round=1", want: "ended"},
		{name: "or begins again, but not at once", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), anew, second},
			have: "app-1 exited 42 round=1 backoff=10s ago=4s; two-1 running round=1", want: "stop two-1, app waits 10s, again 2s"},
		{name: "until it has waited", pod: []func(*v1.Pod){own(v1.ContainerRestartPolicyNever), anew, second},
			have: "app-1 exited 42 round=1 backoff=10s ago=10s; two-1 exited 137 round=1 backoff=40s", want: "start app-2 backoff=20s, start two-2 backoff=40s"},
		{name: "an ephemeral container stays", pod: []func(*v1.Pod){looked, own(v1.ContainerRestartPolicyNever), anew}, have: "app-0 exited 42; look-0 running",
			want: "start app-1 backoff=10s"},
		{name: "it does not come to a pod that is over", pod: []func(*v1.Pod){looked, policy(v1.RestartPolicyNever)}, have: "app-0 exited", want: "ended"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, Containers: []v1.Container{{Name: "app", Image: "nginx"}}}}
			for _, change := range tc.pod {
				change(pod)
			}
			asked := map[string]told{}
			for id, ago := range tc.told {
				asked[id] = told{noon.Add(-ago), noon.Add(-ago)}
			}
			if tc.unsignalled > 0 {
				asked["app-0"] = told{asked: noon.Add(-tc.unsignalled)}
			}
			got := tellDecision(decide(seen{pod: pod, containers: have(t, tc.have), told: asked, trouble: tc.trouble, health: tc.health, hooks: tc.hooks,
				boot: thisBoot, maxBackoff: 5 * time.Minute, now: noon}))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("with %q (-want +got):\n%s", tc.have, diff)
			}
		})
	}
}
