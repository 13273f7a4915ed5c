package api

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestResize lets CPU and memory change through the subresource, and nothing else, in Kubernetes' words.
func TestResize(t *testing.T) {
	const stored = `{metadata: {name: p}, spec: {restartPolicy: Always, containers: [{name: a, image: i, terminationMessagePolicy: File, imagePullPolicy: Always,
		resources: {requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 1Gi}}}]}, status: {qosClass: Burstable}}`
	for name, tc := range map[string]struct{ resources, want string }{
		"cpu and memory":            {`{requests: {cpu: 150m, memory: 1Mi, ephemeral-storage: 1Gi}, limits: {cpu: 300m, memory: 3Mi, ephemeral-storage: 1Gi}}`, ""},
		"a limit is new":            {`{requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 1Gi}}`, ""},
		"a limit is gone":           {`{requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, ephemeral-storage: 1Gi}}`, "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"},
		"a request is gone":         {`{requests: {cpu: 100m}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 1Gi}}`, ""}, // It is the limit, by default.
		"something else":            {`{requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 2Gi}}`, "spec: Forbidden: only cpu and memory resources are mutable"},
		"another class":             {`{requests: {cpu: 200m, memory: 2Mi}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 1Gi}}`, "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"},
		"more is asked than is let": {`{requests: {cpu: 300m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi, ephemeral-storage: 1Gi}}`, "spec.containers[0].resources.requests: Invalid value: \"300m\": must be less than or equal to cpu limit of 200m"},
	} {
		old, pod := &corev1.Pod{}, &corev1.Pod{}
		if err := yaml.Unmarshal([]byte(stored), old); err != nil {
			t.Fatal(err)
		}
		defaultPod(old)
		old.DeepCopyInto(pod)
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
		pod.Spec.Containers[0].Image, pod.Labels = "other", map[string]string{"x": "y"} // Not by this way.
		if err := yaml.Unmarshal([]byte(tc.resources), &pod.Spec.Containers[0].Resources); err != nil {
			t.Fatal(err)
		}
		sub := resizeSub()
		sub.Prepare(pod, old)
		if pod.Spec.Containers[0].Image != "i" || len(pod.Labels) > 0 {
			t.Errorf("%s: the image is %s, the labels %v", name, pod.Spec.Containers[0].Image, pod.Labels)
		}
		var got []string
		for _, err := range sub.Validate(pod, old) {
			got = append(got, err.Error())
		}
		if text := strings.Join(got, "\n"); text != tc.want {
			t.Errorf("%s: %q, want %q", name, text, tc.want)
		}
	}
}

// TestResizeOfOthers refuses a resize that names other containers, or the same in another order: whose size it tells is not sure.
func TestResizeOfOthers(t *testing.T) {
	const moved = "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize\n" +
		"spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize"
	for name, tc := range map[string]struct{ names, want string }{
		"the same":      {"a b", ""},
		"another order": {"b a", moved},
		"other names":   {"c d", moved},
		"one less":      {"a", "spec.containers: Forbidden: containers may not be added or removed on resize"},
		"one more":      {"a b c", "spec.containers: Forbidden: containers may not be added or removed on resize"},
	} {
		podOf := func(names string) *corev1.Pod {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort}}
			for _, name := range strings.Fields(names) {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "i"})
			}
			defaultPod(pod)
			return pod
		}
		old, pod := podOf("a b"), podOf(tc.names)
		sub := resizeSub()
		sub.Prepare(pod, old)
		var got []string
		for _, err := range sub.Validate(pod, old) {
			got = append(got, err.Error())
		}
		if text := strings.Join(got, "\n"); text != tc.want {
			t.Errorf("%s: %q, want %q", name, text, tc.want)
		}
	}
}

// TestResizeWhole lets CPU and memory of the pod as a whole change, and be given to a pod that had none.
func TestResizeWhole(t *testing.T) {
	const own = "{requests: {cpu: 100m, memory: 2Mi}, limits: {cpu: 200m, memory: 4Mi, hugepages-2Mi: 2Mi}}"
	for name, tc := range map[string]struct{ old, now, want string }{
		"cpu and memory":     {own, "{requests: {cpu: 150m, memory: 2Mi, hugepages-2Mi: 2Mi}, limits: {cpu: 300m, memory: 5Mi, hugepages-2Mi: 2Mi}}", ""},
		"a request is gone":  {own, "{limits: {cpu: 200m, memory: 4Mi, hugepages-2Mi: 2Mi}}", ""},                                            // By default it is what the containers ask for.
		"a limit is gone":    {own, "{requests: {cpu: 150m, memory: 2Mi, hugepages-2Mi: 2Mi}, limits: {cpu: 300m, hugepages-2Mi: 2Mi}}", ""}, // And what they may have.
		"all of it is gone":  {own, "null", ""},                                                                                              // Of a client that does not know of it: it stays.
		"it is new":          {"null", "{limits: {cpu: 300m, memory: 5Mi}}", ""},
		"huge pages":         {own, "{requests: {cpu: 100m, memory: 2Mi}, limits: {cpu: 200m, memory: 4Mi, hugepages-2Mi: 4Mi}}", "spec: Forbidden: only cpu and memory resources are mutable at pod-level"},
		"less than its part": {own, "{requests: {cpu: 50m, memory: 2Mi}, limits: {cpu: 300m, memory: 5Mi, hugepages-2Mi: 2Mi}}", "spec.resources.requests[cpu]: Invalid value: \"50m\": must be greater than or equal to aggregate container requests of 100m"},
	} {
		old := &corev1.Pod{}
		if err := yaml.Unmarshal([]byte(`{metadata: {name: p}, spec: {restartPolicy: Always, resources: `+tc.old+`, containers: [{name: a, image: i,
			terminationMessagePolicy: File, imagePullPolicy: Always, resources: {requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi}}}]}}`), old); err != nil {
			t.Fatal(err)
		}
		defaultPod(old)
		preparePod(old)
		pod := old.DeepCopy()
		pod.Spec.Resources = nil
		if err := yaml.Unmarshal([]byte(tc.now), &pod.Spec.Resources); err != nil {
			t.Fatal(err)
		}
		sub := resizeSub()
		sub.Prepare(pod, old)
		var got []string
		for _, err := range sub.Validate(pod, old) {
			got = append(got, err.Error())
		}
		if text := strings.Join(got, "\n"); text != tc.want {
			t.Errorf("%s: %q, want %q", name, text, tc.want)
		}
	}
}
