package controller

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func service(port intstr.IntOrString) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "service", Labels: map[string]string{"tier": "front"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.43.0.7", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: port, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// backend makes a pod of the service with a container port named web.
func backend(words string, containerPort int32) *corev1.Pod {
	pod := aPod(words)
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.Containers = []corev1.Container{{Name: "web", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: containerPort, Protocol: corev1.ProtocolTCP}}}}
	return pod
}

// TestEndpointsOf holds which pods an Endpoints object names, and how they are grouped.
func TestEndpointsOf(t *testing.T) {
	pods := []*corev1.Pod{
		backend("b ip=10.42.0.3 ready=1h", 80), backend("a ip=10.42.0.4 ready=1h", 80), backend("slow ip=10.42.0.5", 80),
		backend("other-port ip=10.42.0.6 ready=1h", 8080), backend("no-address ready=1h", 80),
		backend("done ip=10.42.0.7 phase=Succeeded", 80), backend("leaving ip=10.42.0.8 ready=1h deleted", 80),
	}
	portless := backend("portless ip=10.42.0.9 ready=1h", 80)
	portless.Spec.Containers[0].Ports = nil
	got := endpointsOf(service(intstr.FromString("web")), append(pods, portless))

	node := "a"
	at := func(name, ip string) corev1.EndpointAddress {
		target := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name, UID: aPod(name).UID}
		return corev1.EndpointAddress{IP: ip, NodeName: &node, TargetRef: &target}
	}
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{
			"tier": "front", endpointsManagedBy: endpointsManager}},
		Subsets: []corev1.EndpointSubset{
			{
				Addresses:         []corev1.EndpointAddress{at("b", "10.42.0.3"), at("a", "10.42.0.4")},
				NotReadyAddresses: []corev1.EndpointAddress{at("slow", "10.42.0.5")},
				Ports:             []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
			},
			{
				Addresses: []corev1.EndpointAddress{at("other-port", "10.42.0.6")},
				Ports:     []corev1.EndpointPort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

// TestServiceEndpoints promises that slices and Endpoints follow the pods, say what state they are in, and come back when
// somebody deletes them.
func TestServiceEndpoints(t *testing.T) {
	build := func(b *base, events record.EventRecorder) error {
		if err := newEndpoints(b, events); err != nil {
			return err
		}
		return newEndpointSlices(b, events)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "north"}}}
	inWorld(t, build, func(w *world) {
		_, err := w.client.CoreV1().Services("default").Create(w.ctx, service(intstr.FromString("web")), metav1.CreateOptions{})
		w.must(err)
		for _, pod := range []*corev1.Pod{backend("ready ip=10.42.0.3 ready=1h", 8080), backend("slow ip=10.42.0.4", 8080), backend("leaving ip=10.42.0.5 ready=1h deleted", 8080)} {
			_, err := w.client.CoreV1().Pods("default").Create(w.ctx, pod, metav1.CreateOptions{})
			w.must(err)
		}
		w.settle()
		want := map[string]string{"10.42.0.3": "ready serving north", "10.42.0.4": "north", "10.42.0.5": "serving terminating north"}
		if diff := cmp.Diff(want, w.slice()); diff != "" {
			t.Errorf("slice (-want +got):\n%s", diff)
		}

		slow, err := w.client.CoreV1().Pods("default").Get(w.ctx, "slow", metav1.GetOptions{})
		w.must(err)
		slow.Status.Conditions = aPod("slow ready=1h").Status.Conditions
		_, err = w.client.CoreV1().Pods("default").Update(w.ctx, slow, metav1.UpdateOptions{})
		w.must(err)
		w.must(w.client.CoreV1().Pods("default").Delete(w.ctx, "leaving", metav1.DeleteOptions{}))
		w.settle()
		want = map[string]string{"10.42.0.3": "ready serving north", "10.42.0.4": "ready serving north"}
		if diff := cmp.Diff(want, w.slice()); diff != "" {
			t.Errorf("slice after a pod got ready and one left (-want +got):\n%s", diff)
		}

		w.must(w.client.CoreV1().Endpoints("default").Delete(w.ctx, "web", metav1.DeleteOptions{}))
		slices, err := w.client.DiscoveryV1().EndpointSlices("default").List(w.ctx, metav1.ListOptions{})
		w.must(err)
		w.must(w.client.DiscoveryV1().EndpointSlices("default").Delete(w.ctx, slices.Items[0].Name, metav1.DeleteOptions{}))
		w.settle()
		if diff := cmp.Diff(want, w.slice()); diff != "" {
			t.Errorf("slice after it was deleted (-want +got):\n%s", diff)
		}
		endpoints, err := w.client.CoreV1().Endpoints("default").Get(w.ctx, "web", metav1.GetOptions{})
		w.must(err)
		if len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != 2 || endpoints.Subsets[0].Ports[0].Port != 8080 {
			t.Errorf("endpoints after they were deleted: %v, want two addresses with port 8080", endpoints.Subsets)
		}

		w.must(w.client.CoreV1().Services("default").Delete(w.ctx, "web", metav1.DeleteOptions{}))
		w.settle()
		left, err := w.client.CoreV1().Endpoints("default").List(w.ctx, metav1.ListOptions{})
		w.must(err)
		if len(left.Items) != 0 {
			t.Errorf("endpoints after the service is gone: %v", left.Items)
		}
	}, node)
}

// TestEndpointsGoWithService promises that those made by hand go with their Service, and that those that never had one stay.
func TestEndpointsGoWithService(t *testing.T) {
	inWorld(t, newEndpoints, func(w *world) {
		outside := service(intstr.FromInt32(80))
		outside.Spec.Selector = nil
		_, err := w.client.CoreV1().Services("default").Create(w.ctx, outside, metav1.CreateOptions{})
		w.must(err)
		for _, name := range []string{"web", "alone"} {
			byHand := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
			_, err := w.client.CoreV1().Endpoints("default").Create(w.ctx, byHand, metav1.CreateOptions{})
			w.must(err)
		}
		w.settle()
		fails := true
		w.client.PrependReactor("delete", "endpoints", func(clienttesting.Action) (bool, runtime.Object, error) {
			failed := fails
			fails = false
			return failed, nil, errors.New("out of order")
		})
		w.must(w.client.CoreV1().Services("default").Delete(w.ctx, "web", metav1.DeleteOptions{}))
		w.settle()
		left, err := w.client.CoreV1().Endpoints("default").List(w.ctx, metav1.ListOptions{})
		w.must(err)
		if len(left.Items) != 1 || left.Items[0].Name != "alone" {
			t.Errorf("endpoints after the service is gone: %v, want only alone", left.Items)
		}
	})
}

// TestEndpointsTell promises that Endpoints say since when what they show is so, and that an Event tells of a write that failed.
func TestEndpointsTell(t *testing.T) {
	inWorld(t, newEndpoints, func(w *world) {
		_, err := w.client.CoreV1().Services("default").Create(w.ctx, service(intstr.FromInt32(80)), metav1.CreateOptions{})
		w.must(err)
		w.settle()
		since := func() string {
			t.Helper()
			made, err := w.client.CoreV1().Endpoints("default").Get(w.ctx, "web", metav1.GetOptions{})
			w.must(err)
			return made.Annotations[corev1.EndpointsLastChangeTriggerTime]
		}
		created, err := w.client.CoreV1().Services("default").Get(w.ctx, "web", metav1.GetOptions{})
		w.must(err)
		if want := created.CreationTimestamp.UTC().Format(time.RFC3339Nano); since() != want {
			t.Errorf("changed last at %q, want the service's creation, %s", since(), want)
		}
		_, err = w.client.CoreV1().Pods("default").Create(w.ctx, backend("a ip=10.42.0.3 ready=1h", 80), metav1.CreateOptions{})
		w.must(err)
		w.settle()
		if want := noon.Add(-time.Hour).Format(time.RFC3339Nano); since() != want {
			t.Errorf("changed last at %q, want when the pod got ready, %s", since(), want)
		}
		for _, verb := range []string{"update", "create"} {
			fails := true
			w.client.PrependReactor(verb, "endpoints", func(clienttesting.Action) (bool, runtime.Object, error) {
				failed := fails
				fails = false
				return failed, nil, errors.New("out of order")
			})
		}
		w.must(w.client.CoreV1().Pods("default").Delete(w.ctx, "a", metav1.DeleteOptions{}))
		w.settle()
		w.must(w.client.CoreV1().Endpoints("default").Delete(w.ctx, "web", metav1.DeleteOptions{}))
		w.settle()
		want := []string{
			"Warning FailedToUpdateEndpoint Failed to update endpoint default/web: out of order",
			"Warning FailedToCreateEndpoint Failed to create endpoint for service default/web: out of order",
		}
		if diff := cmp.Diff(want, w.told()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// slice is the only slice, as the state of each address.
func (w *world) slice() map[string]string {
	w.Helper()
	list, err := w.client.DiscoveryV1().EndpointSlices("default").List(w.ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=web," + discoveryv1.LabelManagedBy + "=" + sliceManager,
	})
	w.must(err)
	if len(list.Items) != 1 {
		w.Fatalf("%d slices, want 1: %v", len(list.Items), list.Items)
	}
	slice := list.Items[0]
	if len(slice.Ports) != 1 || *slice.Ports[0].Name != "http" || *slice.Ports[0].Port != 8080 {
		w.Errorf("ports of the slice: %v, want http 8080", slice.Ports)
	}
	state := map[string]string{}
	for _, e := range slice.Endpoints {
		words := ""
		for _, c := range []struct {
			word  string
			holds *bool
		}{{"ready ", e.Conditions.Ready}, {"serving ", e.Conditions.Serving}, {"terminating ", e.Conditions.Terminating}} {
			if c.holds != nil && *c.holds {
				words += c.word
			}
		}
		state[e.Addresses[0]] = words + *e.Zone
	}
	return state
}
