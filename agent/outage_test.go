package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientfake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"skiff/agent"
)

// outage is an API that can be taken away, with all that watch it.
type outage struct {
	mu      sync.Mutex
	away    bool
	watches []watch.Interface

	asked atomic.Int64 // How often somebody asked in vain.
}

func (o *outage) install(client *clientfake.Clientset) {
	client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.away {
			o.asked.Add(1)
		}
		return o.away, nil, errors.New("connection refused")
	})
	client.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.away {
			return true, nil, errors.New("connection refused")
		}
		w, err := client.Tracker().Watch(action.GetResource(), action.GetNamespace())
		if err == nil {
			o.watches = append(o.watches, w)
		}
		return true, w, err
	})
}

func (o *outage) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = true
	for _, w := range o.watches {
		w.Stop()
	}
	o.watches = nil
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.away = false
}

// newFarNode is a node whose API can be taken away. It looks after its Node too.
func newFarNode(t *testing.T, objects ...runtime.Object) (*node, *outage) {
	t.Helper()
	// client-go paces the errors that it reports by a clock of the whole process, which is ahead of the bubble's by decades: whoever
	// reports one would sleep until then, and hear nothing of the API any more.
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	n := newNode(t, objects...)
	n.stop()
	api := &outage{}
	api.install(n.client)
	n.start()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.agent.RunNode(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return n, api
}

// backAgain is how long after its return the API has been told all.
const backAgain = 6 * time.Second

// watchedAgain is after how long client-go, whose back-off is 30 s and as much again by chance, has surely asked what is new.
const watchedAgain = 2 * time.Minute

// With the API away for an hour, pods live on by what is known of them: they are restarted, probed and stopped as ever. It hears all of
// that when it is back, and the agent what has happened there.
func TestAPIIsAwayForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"key": "value"}}
		n, api := newFarNode(t, settings)
		issuer, alive, bye := &issuer{}, &answers{}, &answers{}
		n.client.ReactionChain = append(n.client.ReactionChain[:1:1], append([]clienttesting.Reactor{
			&clienttesting.SimpleReactor{Verb: "create", Resource: "serviceaccounts", Reaction: issuer.answer}}, n.client.ReactionChain[1:]...)...)
		n.runtime.Install("alive", alive.run)
		n.runtime.Install("bye", bye.run)
		n.create(newPod("stays"), newPod("goes"), newPod("leaves"), newPod("crashes", usesSettings, tokenVolume("vault", 600)),
			newPod("works", func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyOnFailure }),
			newPod("ails", func(p *v1.Pod) {
				p.Spec.Containers[0].LivenessProbe = execProbe("alive", nil)
				p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}}}
			}))
		n.want("ails", "Running app=running/0")
		before := n.leaseTime()

		api.begin()
		after(t, time.Minute)
		n.exit("uid-works-app-0", 0)
		n.exit("uid-crashes-app-0", 1)
		for attempt, delay := range []time.Duration{10, 20, 40, 80, 160, 300} {
			n.wantRunning(fmt.Sprintf("uid-crashes-app-%d", attempt+1), true)
			n.exit(fmt.Sprintf("uid-crashes-app-%d", attempt+1), 1)
			after(t, delay*time.Second-time.Second)
			n.wantRunning(fmt.Sprintf("uid-crashes-app-%d", attempt+2), false)
			after(t, time.Second)
		}
		alive.code.Store(1)
		after(t, 31*time.Second)
		alive.code.Store(0)
		n.wantRunning("uid-ails-app-1", true)
		if calls := bye.calls.Load(); calls != 1 {
			t.Errorf("the preStop hook of the container that was not well ran %d times, want once", calls)
		}
		if c, _ := n.runtime.Config("uid-crashes-app-7"); !strings.Contains(strings.Join(c.Env, " "), "key=value") {
			t.Errorf("what was restarted has lost its ConfigMap: %q", c.Env)
		}
		_, secrets, _ := n.agent.Dirs()
		if token, err := os.ReadFile(filepath.Join(secrets, "uid-crashes", "token", "token")); string(token) != "1 for [vault] of uid-crashes" {
			t.Errorf("the token is %q (%v)", token, err)
		}
		asked := api.asked.Load()
		after(t, time.Hour-12*time.Minute)
		if now := api.asked.Load() - asked; now > 2000 {
			t.Errorf("in %v the API was asked %d times in vain", time.Hour-12*time.Minute, now)
		}
		have := n.containers()
		want := "uid-ails-app-0 exited, uid-ails-app-1 running, uid-crashes-app-6 exited, uid-crashes-app-7 running, " +
			"uid-goes-app-0 running, uid-leaves-app-0 running, uid-stays-app-0 running, uid-works-app-0 exited"
		if have != want {
			t.Errorf("at the end of the hour there is %q, want %q", have, want)
		}
		n.elsewhere(func(tracker clienttesting.ObjectTracker) error { // Whom the API was not away from has gone on with it.
			pods := v1.SchemeGroupVersion.WithResource("pods")
			grace, at := int64(30), metav1.Now()
			leaves, err := tracker.Get(pods, "default", "leaves")
			if err != nil {
				return err
			}
			pod := leaves.(*v1.Pod).DeepCopy()
			pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
			return errors.Join(tracker.Update(pods, pod, "default"), tracker.Delete(pods, "default", "goes"), tracker.Create(pods, newPod("comes"), "default"))
		})

		api.end()
		after(t, backAgain)
		n.want("stays", "Running app=running/0")
		n.want("crashes", "Running app=running/7")
		n.want("works", "Succeeded app=Completed(0)/0")
		n.want("ails", "Running app=running/1")
		if last := n.get("crashes").Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 1 {
			t.Errorf("the last end that is told is %+v", last)
		}
		after(t, watchedAgain)
		n.want("comes", "Running app=running/0")
		n.wantContainers("uid-ails-app-0 exited, uid-ails-app-1 running, uid-comes-app-0 running, " +
			"uid-crashes-app-6 exited, uid-crashes-app-7 running, uid-stays-app-0 running, uid-works-app-0 exited")
		if !n.gone("leaves") {
			t.Error("a pod that was deleted meanwhile is still there")
		}
		if renewed := n.leaseTime(); renewed.Sub(before) < time.Hour {
			t.Errorf("the Lease was renewed at %v, last before at %v", renewed, before)
		}
		if c := condition(n.node(), v1.NodeReady); c.Status != v1.ConditionTrue {
			t.Errorf("the node is %+v", c)
		}
		n.create(newPod("next"))
		n.want("next", "Running app=running/0")
	})
}

// A pod whose optional ConfigMap is not there is restarted also while nobody can say whether it is there now.
func TestOptionalSourceWhileAPIIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, api := newFarNode(t)
		n.create(newPod("web", usesSettings, func(p *v1.Pod) { p.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Optional = new(true) }))
		n.want("web", "Running app=running/0")
		api.begin()
		after(t, time.Minute)
		n.exit("uid-web-app-0", 1)
		n.wantRunning("uid-web-app-1", true)
	})
}

func usesSettings(p *v1.Pod) {
	p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}}}
}

// elsewhere changes what the API has by a way that is not the node's.
func (n *node) elsewhere(do func(clienttesting.ObjectTracker) error) {
	n.t.Helper()
	if err := do(n.client.Tracker()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) wantRunning(id string, want bool) {
	n.t.Helper()
	list, err := n.runtime.Containers(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	found := false
	for _, c := range list {
		found = found || c.ID == id && c.State == agent.Running
	}
	if found != want {
		n.t.Errorf("container %s runs: %v, want %v; there is %s", id, found, want, n.containers())
	}
}

// leaseTime is when the node last gave a sign of life.
func (n *node) leaseTime() time.Time {
	n.t.Helper()
	lease, err := n.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(n.t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return lease.Spec.RenewTime.Time
}
