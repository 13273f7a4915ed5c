package apiserver

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serviceJSON is a Service with a port 80; more is put into its spec.
func serviceJSON(name, more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"kind":"Service","apiVersion":"v1","metadata":{"name":"` + name + `"},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80}]` + more + `}}`
}

func (s *running) createService(t testing.TB, name, more string) *corev1.Service {
	t.Helper()
	return parse[corev1.Service](t, s.do(t, "POST", servicesPath, serviceJSON(name, more)).want(t, 201))
}

func TestServiceAddressIsKept(t *testing.T) {
	s := start(t)
	svc := s.createService(t, "a", "")
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !s.config.ServiceCIDRs[0].Contains(ip) || len(svc.Spec.ClusterIPs) != 1 || svc.Spec.ClusterIPs[0] != svc.Spec.ClusterIP {
		t.Fatalf("clusterIP %q, clusterIPs %v; want one address of %s", svc.Spec.ClusterIP, svc.Spec.ClusterIPs, s.config.ServiceCIDRs)
	}
	again := parse[corev1.Service](t, s.do(t, "PUT", servicesPath+"/a", serviceJSON("a", "")).want(t, 200))
	if again.Spec.ClusterIP != svc.Spec.ClusterIP || again.ResourceVersion != svc.ResourceVersion {
		t.Errorf("the same YAML again gives address %s at revision %s, want it unchanged: %s at %s", again.Spec.ClusterIP, again.ResourceVersion, svc.Spec.ClusterIP, svc.ResourceVersion)
	}
	s.do(t, "PUT", servicesPath+"/a", serviceJSON("a", `"clusterIP":"10.43.7.7"`)).refused(t, 422, metav1.StatusReasonInvalid, "spec.clusterIPs[0]", "may not change once set")
}

// TestServiceOfOtherRanges promises that a Service may be changed after the server was started with other ranges.
func TestServiceOfOtherRanges(t *testing.T) {
	s := start(t)
	before := s.createService(t, "a", `"type":"NodePort"`)
	s.allocator.cidrs = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}
	s.allocator.ports = PortRange{20000, 20100}
	again := parse[corev1.Service](t, s.do(t, "PUT", servicesPath+"/a", serviceJSON("a", `"type":"NodePort","publishNotReadyAddresses":true`)).want(t, 200))
	if again.Spec.ClusterIP != before.Spec.ClusterIP || again.Spec.Ports[0].NodePort != before.Spec.Ports[0].NodePort {
		t.Errorf("address %s and node port %d, want them kept: %s and %d",
			again.Spec.ClusterIP, again.Spec.Ports[0].NodePort, before.Spec.ClusterIP, before.Spec.Ports[0].NodePort)
	}
}

func TestServiceAddressByNumber(t *testing.T) {
	s := start(t)
	svc := s.createService(t, "a", `"clusterIP":"10.43.5.5"`)
	if svc.Spec.ClusterIP != "10.43.5.5" {
		t.Errorf("clusterIP is %s, want 10.43.5.5", svc.Spec.ClusterIP)
	}
	post := func(name, more string) answer { return s.do(t, "POST", servicesPath, serviceJSON(name, more)) }
	post("b", `"clusterIP":"10.43.5.5"`).refused(t, 422, metav1.StatusReasonInvalid, "failed to allocate IP 10.43.5.5: provided IP is already allocated")
	post("b", `"clusterIP":"10.99.0.1"`).refused(t, 422, metav1.StatusReasonInvalid, "10.99.0.1", "not in the valid range. The range of valid IPs is 10.43.0.0/16")
	post("b", `"clusterIP":"nonsense"`).refused(t, 422, metav1.StatusReasonInvalid, "spec.clusterIPs[0]")
	s.do(t, "DELETE", servicesPath+"/a", "").want(t, 200)
	post("b", `"clusterIP":"10.43.5.5"`).want(t, 201)
	if h := s.createService(t, "headless", `"clusterIP":"None"`); h.Spec.ClusterIP != "None" {
		t.Errorf("a headless Service has address %q", h.Spec.ClusterIP)
	}
}

func TestServiceThatIsNoType(t *testing.T) {
	s := start(t)
	s.do(t, "POST", servicesPath, serviceJSON("app2-service", `"type":"Cluste"`)).refused(t, 422, metav1.StatusReasonInvalid,
		`Service "app2-service" is invalid: spec.type: Unsupported value: "Cluste": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`)
	s.do(t, "GET", servicesPath+"/app2-service", "").want(t, 404)
}

// A Service gets what its new type needs and gives back what it no longer does.
func TestServiceChangesType(t *testing.T) {
	s := start(t)
	first := s.createService(t, "a", "")
	to := func(more string) *corev1.Service {
		t.Helper()
		return parse[corev1.Service](t, s.do(t, "PUT", servicesPath+"/a", serviceJSON("a", more)).want(t, 200))
	}
	np := to(`"type":"NodePort"`)
	port := np.Spec.Ports[0].NodePort
	if np.Spec.ClusterIP != first.Spec.ClusterIP || !s.config.NodePorts.contains(port) {
		t.Errorf("NodePort: address %s, node port %d; want %s and one of %s", np.Spec.ClusterIP, port, first.Spec.ClusterIP, s.config.NodePorts)
	}
	lb := to(`"type":"LoadBalancer","externalTrafficPolicy":"Local"`)
	health := lb.Spec.HealthCheckNodePort
	if lb.Spec.Ports[0].NodePort != port || !s.config.NodePorts.contains(health) || health == port {
		t.Errorf("LoadBalancer: node port %d, healthCheckNodePort %d; want %d and another of %s", lb.Spec.Ports[0].NodePort, health, port, s.config.NodePorts)
	}
	s.do(t, "POST", servicesPath, serviceJSON("b", fmt.Sprintf(`"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":%d`, health))).
		refused(t, 422, metav1.StatusReasonInvalid, "spec.healthCheckNodePort", "provided port is already allocated")
	if again := to(`"type":"LoadBalancer","externalTrafficPolicy":"Local"`); again.Spec.HealthCheckNodePort != health {
		t.Errorf("healthCheckNodePort changed from %d to %d", health, again.Spec.HealthCheckNodePort)
	}
	cluster := to("")
	if cluster.Spec.Ports[0].NodePort != 0 || cluster.Spec.HealthCheckNodePort != 0 || cluster.Spec.ClusterIP != first.Spec.ClusterIP {
		t.Errorf("ClusterIP again: %+v, want the node ports given back and the address kept", cluster.Spec)
	}
	name := to(`"type":"ExternalName","externalName":"example.org"`)
	if name.Spec.ClusterIP != "" || len(name.Spec.ClusterIPs) != 0 {
		t.Errorf("ExternalName: address %q, want it given back", name.Spec.ClusterIP)
	}
	if back := to(""); back.Spec.ClusterIP == "" {
		t.Error("ClusterIP after ExternalName: no address")
	}
}

func TestNodePorts(t *testing.T) {
	s := start(t)
	ports := func(p string) string {
		return `{"kind":"Service","apiVersion":"v1","metadata":{"generateName":"np-"},"spec":{"type":"NodePort","ports":[` + p + `]}}`
	}
	s.do(t, "POST", servicesPath, ports(`{"port":80,"nodePort":30080}`)).want(t, 201)
	s.do(t, "POST", servicesPath, ports(`{"port":80,"nodePort":30080}`)).refused(t, 422, metav1.StatusReasonInvalid,
		"spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated")
	s.do(t, "POST", servicesPath, ports(`{"port":80,"nodePort":30080,"protocol":"UDP"}`)).refused(t, 422, metav1.StatusReasonInvalid, "already allocated")
	s.do(t, "POST", servicesPath, ports(`{"port":80,"nodePort":80}`)).refused(t, 422, metav1.StatusReasonInvalid,
		"provided port is not in the valid range. The range of valid ports is 30000-32767")
	dns := parse[corev1.Service](t, s.do(t, "POST", servicesPath, ports(`{"name":"dns","port":53,"protocol":"UDP"},{"name":"dns-tcp","port":53},{"name":"http","port":80}`)).want(t, 201))
	p := dns.Spec.Ports
	if p[0].NodePort != p[1].NodePort || p[2].NodePort == p[0].NodePort || p[2].NodePort == 0 {
		t.Errorf("node ports of 53/UDP, 53/TCP and 80/TCP are %d, %d, %d; want the first two the same, the third another", p[0].NodePort, p[1].NodePort, p[2].NodePort)
	}
}

// Ports that nobody asked for by number come from above the lowest 16, for as long as there are any.
func TestLowestNodePortsAreLeft(t *testing.T) {
	r := PortRange{30000, 30019}
	have := map[int32]bool{}
	for i := range 20 {
		port, ok := r.free(func(p int32) bool { return have[p] })
		if !ok || have[port] || !r.contains(port) || i < 4 && port < 30016 {
			t.Fatalf("after %v comes %d, %v", have, port, ok)
		}
		have[port] = true
	}
	if port, ok := r.free(func(p int32) bool { return have[p] }); ok {
		t.Errorf("a full range has %d", port)
	}
}

func TestServiceRangesThatAreFull(t *testing.T) {
	s := start(t)
	s.allocator.cidrs = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/29")} // Six addresses.
	s.allocator.ports = PortRange{30000, 30001}
	have := map[string]bool{}
	for i := range 6 {
		have[s.createService(t, fmt.Sprintf("s%d", i), "").Spec.ClusterIP] = true
	}
	if len(have) != 6 || have["10.50.0.0"] || have["10.50.0.7"] {
		t.Errorf("the range's addresses are %v, want all six but the first and last", have)
	}
	s.do(t, "POST", servicesPath, serviceJSON("more", "")).refused(t, 422, metav1.StatusReasonInvalid, "range 10.50.0.0/29 is full")
	for i := range 2 {
		s.do(t, "PUT", servicesPath+fmt.Sprintf("/s%d", i), serviceJSON(fmt.Sprintf("s%d", i), `"type":"NodePort"`)).want(t, 200)
	}
	s.do(t, "PUT", servicesPath+"/s2", serviceJSON("s2", `"type":"NodePort"`)).refused(t, 422, metav1.StatusReasonInvalid, "range 30000-30001 is full")
}

// However many Services are made at once, no address or node port is given twice.
func TestManyServicesAtOnce(t *testing.T) {
	s := start(t)
	const n = 200
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if a := s.do(t, "POST", servicesPath, serviceJSON(fmt.Sprintf("s%d", i), `"type":"NodePort"`)); a.code != 201 {
				t.Errorf("service %d: %s", i, a.body)
			}
		})
	}
	all.Wait()
	list := parse[corev1.ServiceList](t, s.do(t, "GET", "/api/v1/services", ""))
	ips, ports := map[string]string{}, map[int32]string{}
	for _, svc := range list.Items {
		if other, ok := ips[svc.Spec.ClusterIP]; ok {
			t.Errorf("%s and %s have the same address %s", svc.Name, other, svc.Spec.ClusterIP)
		}
		ips[svc.Spec.ClusterIP] = svc.Name
		for _, p := range svc.Spec.Ports {
			if other, ok := ports[p.NodePort]; ok && p.NodePort != 0 {
				t.Errorf("%s and %s have the same node port %d", svc.Name, other, p.NodePort)
			}
			ports[p.NodePort] = svc.Name
		}
	}
	if want := n + 2; len(list.Items) != want { // With kubernetes and kube-dns.
		t.Errorf("there are %d Services, want %d", len(list.Items), want)
	}
}
