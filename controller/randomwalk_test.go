package controller

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestRandomWalk changes a Deployment at random, has pods fail, vanish and get unready, and restarts skiff, all without waiting for what
// becomes of it. Whatever the way, it ends in what the Deployment says.
func TestRandomWalk(t *testing.T) {
	const walks, steps = 5, 60
	c := startCluster(t)
	c.runKubelets(2)
	for i := range walks {
		seed := uint64(time.Now().UnixNano())
		w := &walk{cluster: c, name: fmt.Sprintf("walk-%d", i), random: rand.New(rand.NewPCG(seed, 0))}
		t.Logf("%s: seed %d", w.name, seed)
		w.start()
		for range steps {
			w.step()
			<-time.After(time.Duration(w.random.IntN(10)) * time.Millisecond) // Sometimes the controllers get further than at others.
		}
		w.arrive()
	}
}

type walk struct {
	*cluster
	name   string
	random *rand.Rand
	went   []string
}

func (w *walk) start() {
	d := web(3)
	d.Name = w.name
	d.Spec.Selector, d.Spec.Template.Labels = selecting(map[string]string{"app": w.name}), map[string]string{"app": w.name}
	_, err := w.client.AppsV1().Deployments("default").Create(w.ctx, d, metav1.CreateOptions{})
	w.must(err)
}

// step does one thing to the Deployment, to a pod of it or to skiff.
func (w *walk) step() {
	switch n := w.random.IntN(20); {
	case n < 12:
		w.change()
	case n < 19:
		w.hurt()
	default:
		w.went = append(w.went, "restart")
		w.restart()
	}
}

// change changes the Deployment's spec.
func (w *walk) change() {
	r := w.random
	changes := map[string]func(*appsv1.DeploymentSpec){
		"size": func(s *appsv1.DeploymentSpec) { n := int32(r.IntN(9)); s.Replicas = &n },
		"image": func(s *appsv1.DeploymentSpec) {
			s.Template.Spec.Containers[0].Image = fmt.Sprintf("nginx:%d", r.IntN(4))
		},
		"pause":  func(s *appsv1.DeploymentSpec) { s.Paused = !s.Paused },
		"limit":  func(s *appsv1.DeploymentSpec) { n := int32(r.IntN(3)); s.RevisionHistoryLimit = &n },
		"settle": func(s *appsv1.DeploymentSpec) { s.MinReadySeconds = int32(r.IntN(2)) },
		"strategy": func(s *appsv1.DeploymentSpec) {
			if r.IntN(3) == 0 {
				s.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
				return
			}
			surge, missing := intstr.FromInt32(int32(1+r.IntN(3))), intstr.FromString(fmt.Sprintf("%d%%", 10*r.IntN(10)))
			s.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &missing}}
		},
	}
	what := []string{"size", "size", "image", "image", "image", "pause", "limit", "settle", "strategy"}[r.IntN(9)]
	w.went = append(w.went, what)
	w.update(changes[what])
}

func (w *walk) update(change func(*appsv1.DeploymentSpec)) {
	w.Helper()
	w.eventually("the deployment is changed", func() string {
		d, err := w.client.AppsV1().Deployments("default").Get(w.ctx, w.name, metav1.GetOptions{})
		w.must(err)
		change(&d.Spec)
		if _, err = w.client.AppsV1().Deployments("default").Update(w.ctx, d, metav1.UpdateOptions{}); err != nil {
			return err.Error() // The controller wrote in between.
		}
		return ""
	})
}

// hurt does something to a pod.
func (w *walk) hurt() {
	pods := w.pods()
	if len(pods) == 0 {
		return
	}
	pod := &pods[w.random.IntN(len(pods))]
	what := []string{"fail", "delete", "unready", "pending", "release"}[w.random.IntN(5)]
	w.went = append(w.went, what)
	api := w.client.CoreV1().Pods("default")
	switch what { // Errors are conflicts with the kubelets, or the pod has gone.
	case "fail":
		_ = w.setPod(w.ctx, pod, corev1.PodFailed, false)
	case "delete":
		_ = api.Delete(w.ctx, pod.Name, metav1.DeleteOptions{})
	case "unready":
		_ = w.setPod(w.ctx, pod, corev1.PodRunning, false)
	case "pending": // It recovers.
		_ = w.setPod(w.ctx, pod, corev1.PodPending, false)
	case "release":
		pod.Labels["app"] = "nobody"
		_, _ = api.Update(w.ctx, pod, metav1.UpdateOptions{})
	}
}

func (w *walk) pods() []corev1.Pod {
	list, err := w.client.CoreV1().Pods("default").List(w.ctx, metav1.ListOptions{LabelSelector: "app=" + w.name})
	w.must(err)
	return list.Items
}

// arrive waits until everything is as the Deployment says. Pods that the walk has left unready are made well first.
func (w *walk) arrive() {
	w.Helper()
	w.update(func(s *appsv1.DeploymentSpec) { s.Paused = false })
	for deadline := time.Now().Add(time.Minute); ; {
		wrong := w.wrong()
		if wrong == "" {
			break
		}
		if time.Now().After(deadline) {
			w.Fatalf("not within a minute: %s\nthe way: %s", wrong, strings.Join(w.went, " "))
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (w *walk) wrong() string {
	d, err := w.client.AppsV1().Deployments("default").Get(w.ctx, w.name, metav1.GetOptions{})
	w.must(err)
	size, alive, pods := *d.Spec.Replicas, int32(0), w.pods()
	for _, pod := range pods { // All of them, before any is found to be wrong: an old one may be kept for one that is not ready.
		if pod.Status.Phase == corev1.PodRunning && !podReady(&pod) {
			_ = w.setPod(w.ctx, &pod, corev1.PodRunning, true)
		}
	}
	for _, pod := range pods {
		if !podActive(&pod) {
			continue
		}
		alive++
		if pod.Spec.Containers[0].Image != d.Spec.Template.Spec.Containers[0].Image {
			return fmt.Sprintf("pod %s has the image %s", pod.Name, pod.Spec.Containers[0].Image)
		}
	}
	s := d.Status
	if alive != size || s.Replicas != size || s.UpdatedReplicas != size || s.AvailableReplicas != size || s.ObservedGeneration != d.Generation {
		return fmt.Sprintf("%d pods of %d, status %+v", alive, size, s)
	}
	sets, err := w.client.AppsV1().ReplicaSets("default").List(w.ctx, metav1.ListOptions{LabelSelector: "app=" + w.name})
	w.must(err)
	old := int32(0)
	for _, rs := range sets.Items {
		if rs.Spec.Template.Spec.Containers[0].Image != d.Spec.Template.Spec.Containers[0].Image {
			old++
			if *rs.Spec.Replicas != 0 {
				return fmt.Sprintf("replica set %s of an old template has size %d", rs.Name, *rs.Spec.Replicas)
			}
		}
	}
	if old > *d.Spec.RevisionHistoryLimit {
		return fmt.Sprintf("%d old replica sets, to be kept are %d", old, *d.Spec.RevisionHistoryLimit)
	}
	return ""
}
