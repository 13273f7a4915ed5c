package scheduler

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// aNode reads a node from words like "a cpu=2 memory=4Gi pods=10 taint=key:NoSchedule label=zone:x cordoned".
func aNode(words string) *corev1.Node {
	fields := strings.Fields(words)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fields[0], Labels: map[string]string{corev1.LabelHostname: fields[0]}}}
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		name, detail, _ := strings.Cut(value, ":")
		switch key {
		case "taint":
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: name, Effect: corev1.TaintEffect(detail)})
		case "label":
			node.Labels[name] = detail
		case "cordoned":
			node.Spec.Unschedulable = true
		case "image":
			size, _ := strconv.ParseInt(detail, 10, 64)
			node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: size})
		default:
			node.Status.Allocatable[corev1.ResourceName(key)] = resource.MustParse(value)
		}
	}
	return node
}

// aPod reads a pod from words like "web-1 on=a cpu=500m hostport=80 claim=data label=app:web select=zone:x tolerate=key
// with=app:db@zone apart=app:web@kubernetes.io/hostname spread=app:web@zone".
func aPod(words string) *corev1.Pod {
	fields := strings.Fields(words)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fields[0], Namespace: "default", UID: types.UID(fields[0]), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{SchedulerName: DefaultName, Containers: []corev1.Container{{Name: "main", Image: "nginx"}}},
	}
	container := &pod.Spec.Containers[0]
	container.Resources.Requests = corev1.ResourceList{}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		value, topology, _ := strings.Cut(value, "@")
		name, detail, _ := strings.Cut(value, ":")
		matching := &metav1.LabelSelector{MatchLabels: map[string]string{name: detail}}
		switch key {
		case "on":
			pod.Spec.NodeName = value
		case "label":
			pod.Labels[name] = detail
		case "image":
			container.Image = value
		case "hostport":
			port, _ := strconv.Atoi(value)
			container.Ports = append(container.Ports, corev1.ContainerPort{HostPort: int32(port), HostIP: topology, ContainerPort: 80})
		case "select":
			pod.Spec.NodeSelector = map[string]string{name: detail}
		case "claim":
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: value, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: value}}})
		case "tolerate":
			pod.Spec.Tolerations = []corev1.Toleration{{Key: value, Operator: corev1.TolerationOpExists}}
		case "with":
			affinityOf(pod).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: topology, LabelSelector: matching}}}
		case "apart":
			affinityOf(pod).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: topology, LabelSelector: matching}}}
		case "spread":
			pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: topology, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: matching}}
		default:
			container.Resources.Requests[corev1.ResourceName(key)] = resource.MustParse(value)
		}
	}
	return pod
}

func affinityOf(pod *corev1.Pod) *corev1.Affinity {
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	return pod.Spec.Affinity
}

// place makes the choice as the scheduler does: the name of the node, or the message of why there is none.
func place(t *testing.T, nodes, pods []string, pod *corev1.Pod) string {
	t.Helper()
	known := newCluster()
	for _, words := range nodes {
		known.putNode(aNode(words))
	}
	for _, words := range pods {
		known.putPod(aPod(words))
	}
	r, failure := newRequest(pod, nil)
	if failure != "" {
		return failure
	}
	fitting, failure := feasible(r, known.sorted())
	if failure != "" {
		return failure
	}
	return best(r, fitting).node.Name
}

// TestPlace holds where a pod goes, and Kubernetes' words where it cannot go anywhere.
func TestPlace(t *testing.T) {
	const host = "kubernetes.io/hostname"
	tests := []struct {
		name        string
		nodes, pods []string
		pod, want   string
	}{
		{"no nodes", nil, nil, "p", "no nodes available to schedule pods"},
		{"one node", []string{"a"}, nil, "p", "a"},
		{"cpu", []string{"a cpu=1"}, []string{"x on=a cpu=600m"}, "p cpu=500m", "0/1 nodes are available: 1 Insufficient cpu."},
		{"cpu exactly", []string{"a cpu=1"}, []string{"x on=a cpu=500m"}, "p cpu=500m", "a"},
		{"several reasons of one node", []string{"a cpu=1 memory=1Gi"}, nil, "p cpu=2 memory=2Gi ephemeral-storage=1Gi",
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory."},
		{"too many pods", []string{"a pods=1"}, []string{"x on=a"}, "p", "0/1 nodes are available: 1 Too many pods."},
		{"extended resource", []string{"a", "b example.com/gpu=1"}, nil, "p example.com/gpu=1", "b"},
		{"extended resource taken", []string{"a", "b example.com/gpu=1"}, []string{"x on=b example.com/gpu=1"}, "p example.com/gpu=1",
			"0/2 nodes are available: 2 Insufficient example.com/gpu."},
		{"huge pages", []string{"a hugepages-2Mi=8Mi", "b"}, []string{"x on=a hugepages-2Mi=4Mi"}, "p hugepages-2Mi=4Mi", "a"},
		{"huge pages taken", []string{"a hugepages-2Mi=8Mi", "b"}, []string{"x on=a hugepages-2Mi=4Mi"}, "p hugepages-2Mi=6Mi",
			"0/2 nodes are available: 2 Insufficient hugepages-2Mi."},
		{"different reasons", []string{"a cpu=1", "b cordoned", "c taint=dedicated:NoSchedule"}, nil, "p cpu=2",
			"0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."},
		{"toleration", []string{"a taint=dedicated:NoExecute"}, nil, "p tolerate=dedicated", "a"},
		{"node selector", []string{"a label=zone:x", "b label=zone:y"}, nil, "p select=zone:y", "b"},
		{"node selector nowhere", []string{"a label=zone:x"}, nil, "p select=zone:z", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"host port", []string{"a", "b"}, []string{"x on=a hostport=80"}, "p hostport=80", "b"},
		{"host port taken", []string{"a"}, []string{"x on=a hostport=80"}, "p hostport=80", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port on other addresses", []string{"a"}, []string{"x on=a hostport=80@10.0.0.1"}, "p hostport=80@10.0.0.2", "a"},
		{"host port on every address", []string{"a"}, []string{"x on=a hostport=80@10.0.0.1"}, "p hostport=80", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"with", []string{"a label=zone:x", "b label=zone:y"}, []string{"db on=b label=app:db"}, "p with=app:db@zone", "b"},
		{"with nobody", []string{"a label=zone:x"}, nil, "p with=app:db@zone", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"with itself, the first", []string{"a label=zone:x"}, nil, "p label=app:web with=app:web@zone", "a"},
		{"apart", []string{"a", "b"}, []string{"x on=a label=app:web"}, "p apart=app:web@" + host, "b"},
		{"apart nowhere", []string{"a"}, []string{"x on=a label=app:web"}, "p apart=app:web@" + host, "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"not wanted", []string{"a"}, []string{"x on=a apart=app:web@" + host}, "p label=app:web", "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"spread", []string{"a label=zone:x", "b label=zone:y"}, []string{"x on=a label=app:web"}, "p label=app:web spread=app:web@zone", "b"},
		{"spread nowhere", []string{"a label=zone:x", "b label=zone:y cordoned"}, []string{"x on=a label=app:web"}, "p label=app:web spread=app:web@zone",
			"0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable."},
		{"spread without domains", []string{"a"}, nil, "p spread=app:web@zone", "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"the emptier node", []string{"a", "b"}, []string{"x on=a cpu=2 memory=4Gi"}, "p", "b"},
		{"the balanced node", []string{"a", "b"}, []string{"x on=a cpu=2", "y on=b cpu=1 memory=2Gi"}, "p cpu=1 memory=1Gi", "b"},
		{"pods that request nothing count, too", []string{"a", "b"}, []string{"x on=a"}, "p", "b"},
		{"the node with the image", []string{"a", "b image=nginx:500000000"}, nil, "p", "b"},
		{"not a node that would rather not", []string{"a taint=busy:PreferNoSchedule", "b"}, []string{"x on=b cpu=1"}, "p", "b"},
		{"a finished pod takes nothing", []string{"a pods=1"}, nil, "p", "a"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := place(t, tc.nodes, tc.pods, aPod(tc.pod)); got != tc.want {
				t.Errorf("nodes %q, pods %q, pod %q:\n got %s\nwant %s", tc.nodes, tc.pods, tc.pod, got, tc.want)
			}
		})
	}
}

// TestUnsupported promises that what is not understood is named, not passed over.
// What a pod takes beside its containers is claimed with what they request.
func TestOverheadIsClaimed(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Overhead: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}, Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
	}}}}
	if got := claims(p, nil)[corev1.ResourceCPU]; got != 1250 {
		t.Errorf("%d thousandths of a processor are claimed, want 1250", got)
	}
}

func TestUnsupported(t *testing.T) {
	pod := aPod("p")
	pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}}
	want := "spec.resourceClaims is not supported by this scheduler; the pod stays pending"
	if got := place(t, []string{"a"}, nil, pod); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestCluster promises that the sums are right whatever order the events come in: after each walk over the same states
// nothing is left.
func TestCluster(t *testing.T) {
	known := newCluster()
	state := func() string {
		var out []string
		for _, n := range known.sorted() {
			out = append(out, fmt.Sprintf("%s: %d pods, cpu %d, ports %d, picky %d", n.node.Name, len(n.pods), n.requested["cpu"], len(n.ports), n.picky))
		}
		return strings.Join(out, "; ")
	}
	check := func(what, want string) {
		t.Helper()
		if diff := cmp.Diff(want, state()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	bound := aPod("p on=a cpu=500m hostport=80 apart=app:web@zone")
	known.putPod(bound)
	check("a pod before its node", "")
	known.putNode(aNode("a"))
	check("its node", "a: 1 pods, cpu 500, ports 1, picky 1")
	known.putPod(bound)
	check("the same again", "a: 1 pods, cpu 500, ports 1, picky 1")
	resized := aPod("p on=a cpu=700m hostport=80 apart=app:web@zone")
	known.putPod(resized)
	check("resized", "a: 1 pods, cpu 700, ports 1, picky 1")
	known.assume(aPod("q cpu=100m"), "a")
	check("another assumed", "a: 2 pods, cpu 800, ports 1, picky 1")
	known.putPod(aPod("q cpu=100m")) // Its own status changed before the binding shows.
	check("another still assumed", "a: 2 pods, cpu 800, ports 1, picky 1")
	known.forget("q")
	check("its binding failed", "a: 1 pods, cpu 700, ports 1, picky 1")
	known.assume(aPod("q cpu=100m"), "a")
	known.putPod(aPod("q on=a cpu=100m"))
	known.forget("q") // The answer was lost, but it is bound.
	check("bound all the same", "a: 2 pods, cpu 800, ports 1, picky 1")
	done := aPod("p on=a cpu=700m hostport=80 apart=app:web@zone")
	done.Status.Phase = corev1.PodSucceeded
	if !known.putPod(done) {
		t.Error("a pod that finished freed nothing")
	}
	check("finished", "a: 1 pods, cpu 100, ports 0, picky 0")
	known.removePod("q")
	check("removed", "a: 0 pods, cpu 0, ports 0, picky 0")
	known.removeNode("a")
	if len(known.nodes) != 0 || len(known.where) != 0 {
		t.Errorf("left over: nodes %v, pods %v", known.nodes, known.where)
	}
}
