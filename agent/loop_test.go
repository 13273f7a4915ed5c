package agent_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"skiff/agent"
	"skiff/agent/fake"
)

const nodeName = "node-1"

// node is an agent's pod loop on fakes, inside of a synctest bubble.
type node struct {
	t       *testing.T
	client  *clientfake.Clientset
	runtime *fake.Runtime
	network *fake.Network
	config  agent.Config
	agent   *agent.Agent
	stop    func()
	mu      sync.Mutex
	told    []*v1.Event
}

func config(t *testing.T) agent.Config {
	dir := t.TempDir()
	return agent.Config{
		NodeName: nodeName, NodeIPs: []string{"192.0.2.1"}, DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"),
		ClusterDNS: []string{"10.43.0.10"}, Listen: "127.0.0.1:0", TLS: &tls.Config{MinVersion: tls.VersionTLS12},
	}
}

// newClient is an API that heeds what the agent says of a pod's UID, as the real one does.
func newClient(objects ...runtime.Object) *clientfake.Clientset {
	client := clientfake.NewClientset(objects...)
	client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		patch := action.(clienttesting.PatchAction)
		var meant struct{ Metadata metav1.ObjectMeta }
		if err := json.Unmarshal(patch.GetPatch(), &meant); err != nil {
			return true, nil, err
		}
		found, err := client.Tracker().Get(patch.GetResource(), patch.GetNamespace(), patch.GetName())
		if err == nil && meant.Metadata.UID != "" && meant.Metadata.UID != found.(*v1.Pod).UID {
			err = apierrors.NewConflict(v1.Resource("pods"), patch.GetName(), errors.New("another pod has its name"))
		}
		return err != nil, nil, err
	})
	return client
}

func newNode(t *testing.T, objects ...runtime.Object) *node {
	t.Helper()
	n := &node{
		t: t, client: newClient(objects...), runtime: fake.NewRuntime("nginx", "busybox"), network: fake.NewNetwork(), config: config(t),
	}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start starts an agent as the process would: with nothing in memory.
func (n *node) start() {
	n.t.Helper()
	factory := informers.NewSharedInformerFactory(n.client, 0)
	a, err := agent.New(n.config, n.client, factory, n.runtime, n.network)
	if err != nil {
		n.t.Fatal(err)
	}
	a.WithoutHugePages()
	a.OnEvent(func(e *v1.Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.told = append(n.told, e)
	})
	ctx, cancel := context.WithCancel(n.t.Context())
	factory.Start(ctx.Done())
	done := make(chan struct{})
	go func() { a.RunPods(ctx); close(done) }()
	n.agent = a
	n.stop = func() {
		cancel()
		<-done
		a.Quit()
		factory.Shutdown()
	}
	settle(n.t)
}

// settle lets everything happen that happens at once.
func settle(t *testing.T) { after(t, 200*time.Millisecond) }

// after lets time pass; in the bubble that costs none.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
}

func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1},
		Spec: v1.PodSpec{
			NodeName: nodeName, RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{Name: "app", Image: "nginx", ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log"}},
		},
		Status: v1.PodStatus{Phase: v1.PodPending},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func (n *node) get(name string) *v1.Pod {
	n.t.Helper()
	pod, err := n.client.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatalf("get pod %s: %v", name, err)
	}
	return pod
}

func (n *node) gone(name string) bool {
	_, err := n.client.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// create makes pods and waits until they are as they will be.
func (n *node) create(pods ...*v1.Pod) {
	n.t.Helper()
	for _, pod := range pods {
		if _, err := n.client.CoreV1().Pods(pod.Namespace).Create(n.t.Context(), pod, metav1.CreateOptions{}); err != nil {
			n.t.Fatal(err)
		}
	}
	settle(n.t)
}

// markDeleted is what an API server does with a DELETE that leaves a grace period.
func (n *node) markDeleted(name string, grace int64) {
	n.t.Helper()
	pod := n.get(name)
	pod.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(time.Duration(grace) * time.Second)}
	pod.DeletionGracePeriodSeconds = &grace
	if _, err := n.client.CoreV1().Pods(pod.Namespace).Update(n.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	settle(n.t)
}

// containers describes what runs: "uid-web-app-0 running, ...".
func (n *node) containers() string {
	n.t.Helper()
	list, err := n.runtime.Containers(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, c := range list {
		all = append(all, c.ID+" "+string(c.State))
	}
	return strings.Join(all, ", ")
}

// state describes a pod as `kubectl get` would: phase, then each container's state and restarts.
func (n *node) state(name string) string {
	n.t.Helper()
	status := n.get(name).Status
	words := []string{string(status.Phase)}
	for _, cs := range append(slices.Clone(status.InitContainerStatuses), status.ContainerStatuses...) {
		state := "running"
		switch {
		case cs.State.Waiting != nil:
			state = cs.State.Waiting.Reason
		case cs.State.Terminated != nil:
			state = fmt.Sprintf("%s(%d)", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
		}
		words = append(words, fmt.Sprintf("%s=%s/%d", cs.Name, state, cs.RestartCount))
	}
	return strings.Join(words, " ")
}

func (n *node) want(name, state string) {
	n.t.Helper()
	if got := n.state(name); got != state {
		n.t.Fatalf("pod %s is %q, want %q\nruntime: %s", name, got, state, n.containers())
	}
}

func (n *node) wantContainers(want string) {
	n.t.Helper()
	if got := n.containers(); got != want {
		n.t.Fatalf("the runtime has %q, want %q", got, want)
	}
}

func (n *node) exit(id string, code int) {
	n.t.Helper()
	if err := n.runtime.Exit(id, code); err != nil {
		n.t.Fatal(err)
	}
	settle(n.t)
}

func TestPodStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"), newPod("elsewhere", func(p *v1.Pod) { p.Spec.NodeName = "node-2" }))
		n.want("web", "Running app=running/0")
		n.wantContainers("uid-web-app-0 running")
		status := n.get("web").Status
		if status.PodIP != "10.42.0.2" || status.HostIP != "192.0.2.1" {
			t.Errorf("pod IP %q and host IP %q, want 10.42.0.2 and 192.0.2.1", status.PodIP, status.HostIP)
		}
		for _, c := range status.Conditions {
			if c.Status != v1.ConditionTrue || c.ObservedGeneration != 1 {
				t.Errorf("condition %s is %s for generation %d, want True for 1: %s", c.Type, c.Status, c.ObservedGeneration, c.Message)
			}
		}
		if id := status.ContainerStatuses[0].ContainerID; id != "containerd://uid-web-app-0" {
			t.Errorf("container ID %q", id)
		}
		writes := len(n.client.Actions())
		after(t, time.Hour)
		if quiet := len(n.client.Actions()); quiet != writes {
			t.Errorf("%d requests in an hour in which nothing changed: %v", quiet-writes, n.client.Actions()[writes:])
		}
	})
}

func TestRestartBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		n.exit("uid-web-app-0", 1)
		n.want("web", "Running app=running/1") // The first restart is at once.
		for attempt, delay := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			n.exit(fmt.Sprintf("uid-web-app-%d", attempt+1), 1)
			n.want("web", fmt.Sprintf("Running app=CrashLoopBackOff/%d", attempt+1))
			last := n.get("web").Status.ContainerStatuses[0].LastTerminationState.Terminated
			if last == nil || last.ExitCode != 1 {
				t.Fatalf("last state of attempt %d: %v, want exit code 1", attempt+1, last)
			}
			after(t, delay*time.Second-time.Second)
			n.want("web", fmt.Sprintf("Running app=CrashLoopBackOff/%d", attempt+1))
			after(t, time.Second)
			n.want("web", fmt.Sprintf("Running app=running/%d", attempt+2))
		}
		after(t, 11*time.Minute) // Long enough to start afresh.
		n.exit("uid-web-app-8", 1)
		n.want("web", "Running app=running/9")
		n.wantContainers("uid-web-app-8 exited, uid-web-app-9 running") // One dead container is kept.
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, tc := range []struct {
		policy v1.RestartPolicy
		code   int
		want   string
	}{
		{v1.RestartPolicyAlways, 0, "Running app=running/1"},
		{v1.RestartPolicyOnFailure, 0, "Succeeded app=Completed(0)/0"},
		{v1.RestartPolicyOnFailure, 3, "Running app=running/1"},
		{v1.RestartPolicyNever, 0, "Succeeded app=Completed(0)/0"},
		{v1.RestartPolicyNever, 3, "Failed app=Error(3)/0"},
	} {
		t.Run(fmt.Sprintf("%s exit %d", tc.policy, tc.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.create(newPod("job", func(p *v1.Pod) { p.Spec.RestartPolicy = tc.policy }))
				n.exit("uid-job-app-0", tc.code)
				n.want("job", tc.want)
				if pods, _ := n.network.Pods(t.Context()); !strings.HasPrefix(tc.want, "Running") && len(pods) != 0 {
					t.Errorf("the network of a pod that is over is still there")
				}
			})
		})
	}
}

func TestInitContainersAndSidecar(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.RestartPolicy = v1.RestartPolicyNever
			p.Spec.InitContainers = []v1.Container{
				{Name: "one", Image: "busybox"}, {Name: "side", Image: "busybox", RestartPolicy: &always}, {Name: "two", Image: "busybox"},
			}
			for i := range p.Spec.InitContainers {
				p.Spec.InitContainers[i].ImagePullPolicy = v1.PullNever
			}
		}))
		n.want("web", "Pending one=running/0 side=PodInitializing/0 two=PodInitializing/0 app=PodInitializing/0")
		n.exit("uid-web-one-0", 0)
		n.want("web", "Pending one=Completed(0)/0 side=running/0 two=running/0 app=PodInitializing/0")
		n.exit("uid-web-two-0", 0)
		n.want("web", "Running one=Completed(0)/0 side=running/0 two=Completed(0)/0 app=running/0")
		n.exit("uid-web-side-0", 1)
		n.want("web", "Running one=Completed(0)/0 side=running/1 two=Completed(0)/0 app=running/0")
		n.exit("uid-web-app-0", 0)
		n.want("web", "Succeeded one=Completed(0)/0 side=Completed(0)/1 two=Completed(0)/0 app=Completed(0)/0")
	})
}

func TestInitContainerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.RestartPolicy = v1.RestartPolicyNever
			p.Spec.InitContainers = []v1.Container{{Name: "one", Image: "busybox", ImagePullPolicy: v1.PullNever}}
		}))
		n.exit("uid-web-one-0", 1)
		n.want("web", "Failed one=Error(1)/0 app=PodInitializing/0")
	})
}

func TestGracefulDeletion(t *testing.T) {
	for _, stubborn := range []bool{false, true} {
		t.Run(fmt.Sprintf("stubborn=%v", stubborn), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				if stubborn {
					n.runtime.IgnoreSignals()
				}
				n.create(newPod("web"))
				n.markDeleted("web", 30)
				if stubborn {
					n.wantContainers("uid-web-app-0 running")
					after(t, 29*time.Second)
					n.wantContainers("uid-web-app-0 running")
					after(t, 2*time.Second)
				}
				n.wantContainers("")
				if !n.gone("web") {
					t.Errorf("the pod is still there: %s", n.state("web"))
				}
				n.wantNothingLeft()
			})
		})
	}
}

// wantNothingLeft checks that no pod has left anything on the node.
func (n *node) wantNothingLeft() {
	n.t.Helper()
	pods, secrets, logs := n.agent.Dirs()
	for _, dir := range []string{pods, secrets, logs} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			n.t.Errorf("%s holds %v (%v), want nothing", dir, entries, err)
		}
	}
	if uids, err := n.network.Pods(n.t.Context()); err != nil || len(uids) != 0 {
		n.t.Errorf("the network has %v (%v), want nothing", uids, err)
	}
}

func TestForcedDeletionLeavesOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		if err := n.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		settle(t)
		n.wantContainers("")
		n.wantNothingLeft()
	})
}

func TestAgentRestartAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"), newPod("old"))
		before := n.containers()
		n.stop()
		if err := n.client.CoreV1().Pods("default").Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		n.wantContainers(before)
		n.start()
		after(t, time.Minute)
		n.wantContainers("uid-web-app-0 running") // The orphan went, the other was not touched.
		n.want("web", "Running app=running/0")
	})
}

func TestRebootGoesOnCounting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		n.exit("uid-web-app-0", 1)
		n.stop()
		n.runtime.Reboot()
		n.start()
		n.want("web", "Running app=running/2")
		last := n.get("web").Status.ContainerStatuses[0].LastTerminationState.Terminated
		if last == nil || last.Reason != "ContainerStatusUnknown" || last.ExitCode != 137 {
			t.Errorf("last state %v, want ContainerStatusUnknown with exit code 137", last)
		}
	})
}

func TestImagePull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.Containers[0].Image = "missing" }))
		n.want("web", "Pending app=ErrImagePull/0")
		after(t, 3*time.Second)
		n.want("web", "Pending app=ImagePullBackOff/0")
		n.runtime.Publish("missing", agent.Image{Size: 1000})
		after(t, 10*time.Second)
		n.want("web", "Running app=running/0")
		n.wantEvent("web", `Pulled: Successfully pulled image "missing" in 0s (0s including waiting). Image size: 1000 bytes.`)
	})
}

func TestImagePullSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Publish("registry.example/app", agent.Image{Size: 1000})
		n.runtime.Guard("registry.example/app", agent.Login{Username: "ann", Password: "secret"})
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].Image = "registry.example/app"
			p.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "regcred"}}
		}))
		n.want("web", "Pending app=ErrImagePull/0")
		n.wantEvent("web", "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed.")
		secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "regcred"}, Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			v1.DockerConfigJsonKey: []byte(`{"auths": {"registry.example": {"username": "ann", "password": "secret"}}}`),
		}}
		if _, err := n.client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		after(t, 11*time.Second)
		n.want("web", "Running app=running/0")
	})
}

// TestPullAlwaysFallsBack promises that a machine without a network starts what it has an image for, and does not wait for
// the registry again and again; but that an image which the registry refuses is not used.
func TestPullAlwaysFallsBack(t *testing.T) {
	always := func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = v1.PullAlways }
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.CutRegistry(fmt.Errorf("%w: dial tcp: lookup registry-1.docker.io: no such host", agent.ErrNoRegistry))
		n.create(newPod("web", always))
		n.want("web", "Running app=running/0")
		n.runtime.CutRegistry(errors.New("the registry was asked again"))
		n.create(newPod("next", always))
		n.want("next", "Running app=running/0")
		after(t, 2*time.Minute)
		n.create(newPod("later", always))
		n.want("later", "Pending app=ErrImagePull/0")
	})
}

// A container whose process cannot be started is one that has ended: its tries count, with the back-off of those that crash.
func TestStartErrors(t *testing.T) {
	for _, tc := range []struct {
		policy      v1.RestartPolicy
		first, then string
	}{
		{v1.RestartPolicyAlways, "Running app=CrashLoopBackOff/1", "Running app=running/3"},
		{v1.RestartPolicyNever, "Failed app=StartError(128)/0", "Failed app=StartError(128)/0"},
	} {
		t.Run(string(tc.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.runtime.FailStarts(errors.New("exec: \"nope\": executable file not found in $PATH"))
				n.create(newPod("web", func(p *v1.Pod) { p.Spec.RestartPolicy = tc.policy }))
				n.want("web", tc.first)
				n.wantEvent("web", "Failed: Error: exec: \"nope\": executable file not found in $PATH")
				if tc.policy == v1.RestartPolicyAlways {
					after(t, 12*time.Second)
					n.want("web", "Running app=CrashLoopBackOff/2")
					last := n.get("web").Status.ContainerStatuses[0].LastTerminationState.Terminated
					if last == nil || last.Reason != "StartError" || last.ExitCode != 128 || last.StartedAt.Unix() != 0 || !strings.HasPrefix(last.Message, "exec:") {
						t.Errorf("it last ended as %+v, want StartError, 128, begun in 1970", last)
					}
				}
				n.runtime.FailStarts(nil)
				after(t, 21*time.Second)
				n.want("web", tc.then)
			})
		})
	}
}

func TestConfigMapComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}}}
		}))
		n.want("web", "Pending app=CreateContainerConfigError/0")
		settings := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"COLOUR": "blue"}}
		if _, err := n.client.CoreV1().ConfigMaps("default").Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		after(t, time.Second)
		n.want("web", "Running app=running/0")
		if c, _ := n.runtime.Config("uid-web-app-0"); !slices.Contains(c.Env, "COLOUR=blue") {
			t.Errorf("environment %q has no COLOUR=blue", c.Env)
		}
	})
}

// A pod is made by what its RuntimeClass names, and waits where the node has no such thing, or there is no such class yet.
func TestRuntimeClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		classes := n.client.NodeV1().RuntimeClasses()
		add := func(name, handler string) {
			c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
			if _, err := classes.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		of := func(class string) func(*v1.Pod) {
			return func(p *v1.Pod) { p.Spec.RuntimeClassName = &class }
		}
		add("plain", "runc")
		add("sandboxed", "runsc")
		n.create(newPod("web", of("plain")), newPod("safe", of("sandboxed")), newPod("early", of("later")))
		n.want("web", "Running app=running/0")
		if c, _ := n.runtime.Config("uid-web-app-0"); c.Handler != "runc" {
			t.Errorf("made by %q, want runc", c.Handler)
		}
		n.want("safe", "Pending app=ContainerCreating/0")
		n.wantEvent("safe", `FailedCreatePodSandBox: Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "runsc" is configured`)
		n.want("early", "Pending app=ContainerCreating/0")
		n.wantEvent("early", `FailedCreatePodSandBox: Failed to create pod sandbox: runtimeclasses.node.k8s.io "later" not found`)
		add("later", "runc")
		after(t, 6*time.Minute)
		n.want("early", "Running app=running/0")
		if err := classes.Delete(t.Context(), "plain", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := n.runtime.Exit("uid-web-app-0", 1); err != nil {
			t.Fatal(err)
		}
		settle(t)
		n.want("web", "Running app=running/1") // It keeps what it began with.
	})
}

func TestUnsupportedIsNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{} }))
		n.want("web", "Pending app=CreateContainerConfigError/0")
		want := "skiff cannot run this yet: spec.schedulingGroup"
		if got := n.get("web").Status.ContainerStatuses[0].State.Waiting.Message; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		n.markDeleted("web", 30)
		if !n.gone("web") {
			t.Error("the pod cannot be deleted")
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64); *p.Spec.ActiveDeadlineSeconds = 60 }))
		after(t, 58*time.Second)
		n.want("web", "Running app=running/0")
		after(t, 3*time.Second)
		n.want("web", "Failed app=Completed(0)/0")
		if reason := n.get("web").Status.Reason; reason != "DeadlineExceeded" {
			t.Errorf("reason %q, want DeadlineExceeded", reason)
		}
	})
}

func TestNewImageReplacesContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web"))
		pod := n.get("web")
		pod.Spec.Containers[0].Image = "busybox"
		if _, err := n.client.CoreV1().Pods("default").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		settle(t)
		n.want("web", "Running app=running/1")
		if c, _ := n.runtime.Config("uid-web-app-1"); c.Image != "busybox" {
			t.Errorf("runs %q, want busybox", c.Image)
		}
	})
}

// Many pods that come, crash and go at random end as the API wants them, and leave nothing.
func TestManyPodsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		n := newNode(t)
		wanted := map[string]bool{}
		for step := range 80 {
			name := fmt.Sprintf("pod-%d", step)
			switch list, _ := n.runtime.Containers(t.Context()); random.IntN(6) {
			case 0, 1:
				n.create(newPod(name))
				wanted[name] = true
			case 2:
				if len(list) > 0 {
					n.exit(list[random.IntN(len(list))].ID, random.IntN(2))
				}
			case 3:
				for name := range wanted {
					n.markDeleted(name, 30)
					delete(wanted, name)
					break
				}
			case 4:
				n.stop()
				if random.IntN(2) == 0 {
					n.runtime.Reboot()
				}
				n.start()
			case 5:
				after(t, time.Duration(random.IntN(60))*time.Second)
			}
		}
		after(t, time.Hour)
		for name := range wanted {
			if got := n.state(name); !strings.HasPrefix(got, "Running app=running/") {
				t.Errorf("pod %s is %q, want it to run", name, got)
			}
		}
		list, _ := n.runtime.Containers(t.Context())
		alive := 0
		for _, c := range list {
			if c.State == agent.Running {
				alive++
			}
		}
		if alive != len(wanted) {
			t.Errorf("%d containers run, want %d: %s", alive, len(wanted), n.containers())
		}
		for name := range wanted {
			n.markDeleted(name, 30)
		}
		n.wantNothingLeft()
	})
}
