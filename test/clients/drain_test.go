package clients

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/drain"
)

// testDrain empties a node by the helper that kubectl drain is made of. A budget holds it up until there is a spare pod.
func testDrain(t *testing.T, s *server) {
	space := s.space(t)
	client := s.client(t)
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "dock"},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "dry", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	readyPod(t, client, space, "guard-0", node.Name)
	readyPod(t, client, space, "guard-1", node.Name)
	least := intstr.FromInt32(1)
	budgets := client.PolicyV1().PodDisruptionBudgets(space)
	if _, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "guards"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"is": "guard"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		budget, err := budgets.Get(t.Context(), "guards", metav1.GetOptions{})
		if err == nil && budget.Status.DisruptionsAllowed != 1 {
			err = fmt.Errorf("the budget allows %d disruptions", budget.Status.DisruptionsAllowed)
		}
		return err
	})

	refused := &notice{text: "Cannot evict pod as it would violate the pod's disruption budget.", seen: make(chan struct{})}
	helper := &drain.Helper{
		Ctx: t.Context(), Client: client, Force: true, GracePeriodSeconds: 0, Timeout: patience,
		EvictErrorRetryDelay: 50 * time.Millisecond, Out: io.Discard, ErrOut: refused,
	}
	if err := drain.RunCordonOrUncordon(helper, node, true); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- drain.RunNodeDrain(helper, node.Name) }()
	select {
	case <-refused.seen:
	case err := <-drained:
		t.Fatalf("the drain ended with %v while the budget held a pod", err)
	}
	eventually(t, func() error { return podsOn(t, client, space, node.Name, 1) }) // The other one is let go.
	readyPod(t, client, space, "guard-2", "")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if err := podsOn(t, client, space, node.Name, 0); err != nil {
		t.Error(err)
	}
}

// notice is a writer that waits for a text.
type notice struct {
	text string
	seen chan struct{} // Closed when the text was written.
	once sync.Once
}

func (n *notice) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(n.text)) {
		n.once.Do(func() { close(n.seen) })
	}
	return len(p), nil
}

// readyPod makes a pod of which its node says that it is ready.
func readyPod(t *testing.T, client kubernetes.Interface, space, name, node string) {
	t.Helper()
	pods := client.CoreV1().Pods(space)
	if _, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"is": "guard"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "nginx"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := pods.Patch(t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// podsOn returns nil if there are as many pods on the node.
func podsOn(t *testing.T, client kubernetes.Interface, space, node string, want int) error {
	t.Helper()
	pods, err := client.CoreV1().Pods(space).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err == nil && len(pods.Items) != want {
		err = fmt.Errorf("there are %d pods on the node, want %d", len(pods.Items), want)
	}
	return err
}
