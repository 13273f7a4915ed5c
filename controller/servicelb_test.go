package controller

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
)

func balancedNode(name string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	for _, addr := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr})
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

func balancedService(name string, ports ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, port := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: port})
	}
	return s
}

func (w *world) createService(s *corev1.Service) {
	w.Helper()
	_, err := w.client.CoreV1().Services(s.Namespace).Create(w.ctx, s, metav1.CreateOptions{})
	w.must(err)
	w.settle()
}

// wantIngress compares the addresses of a Service, all of which must be for the proxies to take.
func (w *world) wantIngress(name, want string) {
	w.Helper()
	s, err := w.client.CoreV1().Services("default").Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	var got []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			w.Errorf("ipMode of %s is %v, want VIP", in.IP, in.IPMode)
		}
		got = append(got, in.IP)
	}
	if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
		w.Errorf("addresses of %s (-want +got):\n%s", name, diff)
	}
}

func inBalancedWorld(t *testing.T, test func(w *world)) {
	build := func(b *base, events record.EventRecorder) error { return newServiceLB(b, events, []uint16{6443}) }
	excluded := balancedNode("c", "192.0.2.3")
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	inWorld(t, build, test, balancedNode("a", "192.0.2.1"), balancedNode("b", "192.0.2.2"), excluded)
}

func TestLoadBalancerGetsTheNodes(t *testing.T) {
	inBalancedWorld(t, func(w *world) {
		w.createService(balancedService("web", 80))
		w.wantIngress("web", "192.0.2.1 192.0.2.2")

		down := balancedNode("b", "192.0.2.2")
		down.Status.Conditions[0].Status = corev1.ConditionUnknown
		_, err := w.client.CoreV1().Nodes().Update(w.ctx, down, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantIngress("web", "192.0.2.1")
		w.must(w.client.CoreV1().Nodes().Delete(w.ctx, "a", metav1.DeleteOptions{}))
		w.settle()
		w.wantIngress("web", "192.0.2.1")

		s, err := w.client.CoreV1().Services("default").Get(w.ctx, "web", metav1.GetOptions{})
		w.must(err)
		s.Spec.Type = corev1.ServiceTypeClusterIP
		_, err = w.client.CoreV1().Services("default").Update(w.ctx, s, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantIngress("web", "")
	})
}

// A Service of both families has both addresses of each node, its own family first; and it follows a node that gets others.
func TestLoadBalancerOfBothFamilies(t *testing.T) {
	build := func(b *base, events record.EventRecorder) error { return newServiceLB(b, events, nil) }
	inWorld(t, build, func(w *world) {
		for port, families := range map[int32]string{80: "IPv4", 81: "IPv6", 82: "IPv4 IPv6", 83: "IPv6 IPv4"} {
			s := balancedService(fmt.Sprint("web-", port), port)
			for _, family := range strings.Fields(families) {
				s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPFamily(family))
			}
			w.createService(s)
		}
		w.wantIngress("web-80", "192.0.2.1 192.0.2.2")
		w.wantIngress("web-81", "2001:db8::1")
		w.wantIngress("web-82", "192.0.2.1 2001:db8::1 192.0.2.2")
		w.wantIngress("web-83", "2001:db8::1 192.0.2.1 192.0.2.2")

		_, err := w.client.CoreV1().Nodes().Update(w.ctx, balancedNode("b", "192.0.2.2", "2001:db8::7"), metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantIngress("web-82", "192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::7")
	}, balancedNode("a", "192.0.2.1", "2001:db8::1"), balancedNode("b", "192.0.2.2"))
}

func TestLoadBalancerOfOthers(t *testing.T) {
	inBalancedWorld(t, func(w *world) {
		s := balancedService("web", 80)
		s.Spec.LoadBalancerClass = new("example.com/cloud")
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1", IPMode: new(corev1.LoadBalancerIPModeVIP)}}
		w.createService(s)
		w.wantIngress("web", "198.51.100.1")
	})
}

func TestLoadBalancerPortBelongsToOne(t *testing.T) {
	inBalancedWorld(t, func(w *world) {
		w.createService(balancedService("first", 80))
		w.createService(balancedService("another", 80, 443))
		w.createService(balancedService("api", 6443))
		w.wantIngress("first", "192.0.2.1 192.0.2.2")
		w.wantIngress("another", "")
		w.wantIngress("api", "")
		want := []string{
			"Warning PortNotAvailable port 80/TCP of the nodes belongs to service default/first",
			"Warning PortNotAvailable port 6443/TCP of the nodes belongs to the cluster itself",
		}
		if diff := cmp.Diff(want, w.told()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		w.must(w.client.CoreV1().Services("default").Delete(w.ctx, "first", metav1.DeleteOptions{}))
		w.settle()
		w.wantIngress("another", "192.0.2.1 192.0.2.2")
	})
}

func TestLoadBalancerWithTheClientsAddress(t *testing.T) {
	inBalancedWorld(t, func(w *world) {
		s := balancedService("web", 80)
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		w.createService(s)
		w.wantIngress("web", "192.0.2.1 192.0.2.2")
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.42.0.1"}, NodeName: new("a"), Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
				{Addresses: []string{"10.42.1.1"}, NodeName: new("b")},
			},
		}
		_, err := w.client.DiscoveryV1().EndpointSlices("default").Create(w.ctx, slice, metav1.CreateOptions{})
		w.must(err)
		w.settle()
		w.wantIngress("web", "192.0.2.2")
	})
}
