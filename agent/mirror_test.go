package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/agent/fake"
)

// newStaticNode is a node with a folder of static pods.
func newStaticNode(t *testing.T, objects ...runtime.Object) *node {
	t.Helper()
	objects = append(objects, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "uid-node"}})
	n := &node{t: t, client: newClient(objects...), runtime: fake.NewRuntime("nginx", "busybox"), network: fake.NewNetwork(), config: config(t)}
	n.config.PodFiles = t.TempDir()
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// static writes the file of a static pod and has the agent see it, if one runs.
func (n *node) static(file, image string) {
	n.t.Helper()
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: fixed}\nspec: {containers: [{name: app, imagePullPolicy: IfNotPresent, image: " + image + "}]}\n"
	if err := os.WriteFile(filepath.Join(n.config.PodFiles, file), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.agent.ReadStatics()
	settle(n.t)
}

const fixed = "fixed-" + nodeName

// images lists what runs, by image.
func (n *node) images() string {
	n.t.Helper()
	list, err := n.runtime.Containers(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, c := range list {
		all = append(all, c.Image+" "+string(c.State))
	}
	return strings.Join(all, ", ")
}

func (n *node) wantImages(want string) {
	n.t.Helper()
	if got := n.images(); got != want {
		n.t.Fatalf("there is %q, want %q", got, want)
	}
}

func annotated(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Annotations = map[string]string{key: value} }
}

// A static pod is no orphan to the next agent, also if that one cannot read the folder.
func TestStaticPodOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newStaticNode(t)
		n.static("a.yaml", "nginx")
		n.want(fixed, "Running app=running/0")
		before := n.containers()
		n.stop()
		n.start()
		after(t, time.Minute)
		n.wantContainers(before)

		n.stop()
		folder := n.config.PodFiles
		n.config.PodFiles = filepath.Join(folder, "a.yaml") // Which is no folder.
		n.start()
		after(t, time.Minute)
		n.wantContainers(before)

		n.stop()
		n.config.PodFiles = t.TempDir()
		n.start()
		after(t, time.Minute)
		n.wantContainers("")
	})
}

// A changed static pod begins when what it was before has ended.
func TestChangedStaticPodWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newStaticNode(t)
		n.runtime.IgnoreSignals()
		n.static("a.yaml", "nginx")
		n.wantImages("nginx running")
		first := n.get(fixed).Annotations[v1.MirrorPodAnnotationKey]
		n.static("a.yaml", "busybox")
		after(t, 28*time.Second)
		n.wantImages("nginx running")
		after(t, 4*time.Second)
		n.wantImages("busybox running")
		if second := n.get(fixed).Annotations[v1.MirrorPodAnnotationKey]; second == first {
			t.Error("the mirror is still that of the pod before")
		}
		n.want(fixed, "Running app=running/0")

		n.stop() // What changes now is an orphan of the next agent.
		n.static("a.yaml", "nginx")
		n.start()
		n.wantImages("busybox running")
		after(t, 4*time.Second)
		n.wantImages("nginx running")
		n.want(fixed, "Running app=running/0")
	})
}

// Services send requests to a static pod's mirror as long as that is there: there is nothing to wait for.
func TestStaticPodIsNotHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newStaticNode(t)
		n.stop()
		n.config.Traffic = &traffic{}
		n.start()
		n.static("a.yaml", "nginx")
		n.wantImages("nginx running")
		n.static("a.yaml", "busybox")
		n.wantImages("busybox running")
	})
}

// A static pod runs whoever has its name in the API, and is shown there when that one has gone.
func TestStaticPodWaitsForItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newStaticNode(t, newPod(fixed))
		n.static("a.yaml", "busybox")
		n.wantImages("busybox running, nginx running")
		after(t, time.Hour)
		n.markDeleted(fixed, 30)
		n.want(fixed, "Running app=running/0")
		if of := n.get(fixed).Annotations[v1.MirrorPodAnnotationKey]; of == "" {
			t.Error("the pod of that name is no mirror")
		}
		n.wantImages("busybox running")
	})
}

// What a pod says of itself makes it no mirror of another, and no static pod.
func TestPodsThatPassForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newStaticNode(t)
		n.static("a.yaml", "busybox")
		uid := n.get(fixed).Annotations[v1.MirrorPodAnnotationKey]
		n.create(newPod("web"))
		before := n.containers()
		n.create(
			newPod("mirrors-web", annotated(v1.MirrorPodAnnotationKey, "uid-web")),
			newPod("a-mirrors-fixed", annotated(v1.MirrorPodAnnotationKey, uid)),
			newPod("mirrors-nothing", annotated(v1.MirrorPodAnnotationKey, "../x")),
		)
		after(t, time.Minute)
		for _, name := range []string{"mirrors-web", "a-mirrors-fixed", "mirrors-nothing"} {
			if !n.gone(name) {
				t.Errorf("pod %s is still there", name)
			}
		}
		n.wantContainers(before)
		n.want("web", "Running app=running/0")
		n.want(fixed, "Running app=running/0")

		n.create(newPod("poses", func(p *v1.Pod) {
			p.Annotations = map[string]string{"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": string(p.UID)}
		}))
		n.want("poses", "Running app=running/0")
		n.markDeleted("poses", 30)
		if !n.gone("poses") {
			t.Error("a pod that says that it is a static one is not deleted")
		}
		n.wantContainers(before)
	})
}
