package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// testServiceNames finds a Service under each of its names, and at the same address as long as it lives.
func testServiceNames(t *testing.T, s *shell) {
	applied(s)
	address := s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")
	other := s.do("kubectl get svc app1-service -o jsonpath={.spec.clusterIP}")
	if address == other {
		t.Errorf("both Services have the address %s", address)
	}
	for _, name := range []string{"app2-service", "app2-service." + s.space, "app2-service." + s.space + ".svc.cluster.local"} {
		s.says("kubectl exec deploy/app1 -- curl -sS -w 'from %{remote_ip}' http://"+name+":80", welcome+`from `+regexp.QuoteMeta(address))
	}
	r := s.try("kubectl exec deploy/app1 -- curl -sS --max-time 5 http://nobody-service")
	if want := "curl: (6) Could not resolve host: nobody-service\n"; !strings.HasPrefix(r.stderr, want) {
		t.Errorf("%v\nwant: %s", r, want)
	}

	s.do("kubectl delete pod --all --now")
	s.do("kubectl label svc app2-service seen=yes")
	s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
	s.says("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}", regexp.QuoteMeta(address))
	s.fails(`kubectl patch svc app1-service -p '{"spec":{"clusterIP":"10.43.99.99"}}'`, 1,
		regexp.QuoteMeta(`The Service "app1-service" is invalid: spec.clusterIPs[0]: Invalid value: ["10.43.99.99"]: may not change once set`))
	s.fails("kubectl create service clusterip thief --tcp=80 --clusterip="+address, 1,
		regexp.QuoteMeta(`error: failed to create ClusterIP service: Service "thief" is invalid: spec.clusterIPs: Invalid value: ["`+
			address+`"]: failed to allocate IP `+address+`: provided IP is already allocated`))
}

// testBalance asks a Service with three pods, until each has answered.
func testBalance(t *testing.T, s *shell) {
	applied(s)
	s.do("kubectl scale deployment app2 --replicas=3")
	s.do("kubectl rollout status deployment app2 --timeout=60s")
	for pod := range strings.Lines(s.do("kubectl get pods -l app=app2 -o name")) {
		s.do("kubectl exec " + strings.TrimSpace(pod) + " -- sh -c 'hostname > /usr/share/nginx/html/index.html'")
	}
	const requests = 90
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=app2-service -o jsonpath='{.items[0].endpoints[*].conditions.ready}'", "true true true")
	counts := s.do(fmt.Sprintf("kubectl exec deploy/app1 -- sh -c 'for i in $(seq %d); do curl -sS http://app2-service; done' | sort | uniq -c", requests))
	// By chance alone each pod gets 30 of 90; fewer than 10 happens once in a million times.
	if !matches(`( +[1-9]\d app2-\S+\n?){3}`, counts) {
		t.Errorf("%d requests were answered by:\n%s", requests, counts)
	}
}

// testScaledToZero asks a Service that has no pods.
func testScaledToZero(t *testing.T, s *shell) {
	applied(s)
	s.do("kubectl scale deployment app2 --replicas=0")
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=app2-service -o jsonpath='{.items[*].endpoints[*].addresses}'", "")
	// Status 7 is "refused"; one that hears nothing ends with 28.
	s.until("kubectl exec deploy/app1 -- sh -c 'curl -sS --max-time 1 http://app2-service; echo status $?'", "status 7")
	s.do("kubectl scale deployment app2 --replicas=1")
	s.until("kubectl exec deploy/app1 -- curl -sS --max-time 1 http://app2-service", welcome)
}

// testOutside asks a Service from a machine that is no node.
func testOutside(t *testing.T, s *shell) {
	applied(s)
	address := s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")
	route := " route %s 10.43.0.0/16 via " + nodeAddr
	host(t, "ip -n "+s.outside+fmt.Sprintf(route, "add"))
	defer host(t, "ip -n "+s.outside+fmt.Sprintf(route, "del"))
	if r := s.get(s.netns, "http://"+address, "/"); !strings.Contains(r.stdout, "Welcome to nginx!") {
		t.Errorf("on the node the Service does not answer: %v", r)
	}
	if r := s.get(s.outside, "https://"+nodeAddr+":6443", "/readyz"); r.stdout != "ok" {
		t.Fatalf("from outside the node itself does not answer: %v", r)
	}
	if r := s.get(s.outside, "http://"+address, "/"); r.status == 0 || strings.Contains(r.stdout, "nginx") {
		t.Errorf("the Service answers to the outside: %v", r)
	}
}

// get fetches a page as nobody in particular. kubectl does for a client: it is on the machine.
func (s *shell) get(netns, url, path string) result {
	s.t.Helper()
	cmd := in(netns, s.kubectl, "--kubeconfig="+os.DevNull, "--insecure-skip-tls-verify", "--token=none", "--request-timeout=2s",
		"-s", url, "get", "--raw", path)
	return execute(s.t, "from "+netns+": get "+url+path, cmd)
}

// testAnonymous asks the API and the agent as one whom they do not know.
func testAnonymous(t *testing.T, s *shell) {
	server := "https://" + nodeAddr + ":6443"
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/version": `(?s)\{.*"gitVersion": "v1\.37\.2\+skiff".*\}`} {
		if r := s.get(s.outside, server, path); !matches(want, r.stdout) {
			t.Errorf("%v\nwant: %s", r, want)
		}
	}
	for _, path := range []string{"/api", "/apis", "/api/v1/pods", "/api/v1/namespaces/default/secrets", "/openapi/v2", "/openapi/v3", "/metrics", "/readyz/x"} {
		if r := s.get(s.outside, server, path); r.status == 0 || r.stdout != "" {
			t.Errorf("open to the anonymous: %v", r)
		}
	}
	for _, path := range []string{"/", "/pods", "/containerLogs/default/none/none", "/metrics"} {
		if r := s.get(s.outside, "https://"+nodeAddr+":10250", path); r.status == 0 || r.stdout != "" {
			t.Errorf("open to the anonymous: %v", r)
		}
	}
}

// testNoLeak gives the node a default route, and listens there.
func testNoLeak(t *testing.T, s *shell) {
	applied(s)
	host(t, "ip -n "+s.netns+" route add default via "+outsideAddr)
	defer host(t, "ip -n "+s.netns+" route del default")
	heard := listen(t, s.outside)

	curl := func(address string) {
		s.try("kubectl exec deploy/app1 -- curl -sS --max-time 1 http://" + address)
		s.get(s.netns, "http://"+address, "/")
	}
	s.do("kubectl scale deployment app2 --replicas=0")
	s.until("kubectl get pods -l app=app2", "")
	curl("app1-service")
	curl(s.do("kubectl get svc app1-service -o jsonpath={.spec.clusterIP}"))
	curl(s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")) // It has no pods.
	curl(s.do("kubectl get pods -l app=app1 -o jsonpath={.items[0].status.podIP}"))
	curl("10.42.0.199")   // Of this node, and nobody's.
	curl("10.42.199.199") // Of another node, and there is none.
	curl("10.43.199.199") // No Service's.
	curl("203.0.113.1")   // This one must leave, as the node's, or we are deaf.

	cluster := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}
	left := false
	for packet := range heard {
		left = left || packet.to == netip.MustParseAddr("203.0.113.1")
		for _, p := range cluster {
			if p.Contains(packet.from) || p.Contains(packet.to) {
				t.Errorf("a packet from %s to %s has left the node", packet.from, packet.to)
			}
		}
	}
	if !left {
		t.Error("the packets to the outside were not heard: the test is deaf")
	}
}

// packet is where one came from and where it goes.
type packet struct{ from, to netip.Addr }

// listen returns a function that hears all IPv4 packets that came into a network namespace since.
func listen(t *testing.T, name string) func(yield func(packet) bool) {
	t.Helper()
	type opened struct {
		fd  int
		err error
	}
	result := make(chan opened)
	go func() {
		runtime.LockOSThread() // Never unlocked: the thread is of that namespace, and ends with us.
		fd, err := openIn(name)
		result <- opened{fd, err}
	}()
	socket := <-result
	if socket.err != nil {
		t.Fatalf("listen in %s: %v", name, socket.err)
	}
	t.Cleanup(func() { unix.Close(socket.fd) })
	return func(yield func(packet) bool) {
		buffer := make([]byte, 2048)
		for {
			n, _, err := unix.Recvfrom(socket.fd, buffer, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				return // All are heard.
			}
			if err != nil {
				t.Errorf("listen in %s: %v", name, err)
				return
			}
			if n >= 20 && !yield(packet{netip.AddrFrom4([4]byte(buffer[12:16])), netip.AddrFrom4([4]byte(buffer[16:20]))}) {
				return
			}
		}
	}
}

// openIn opens a socket that hears IPv4 packets in a network namespace.
func openIn(name string) (int, error) {
	if err := enter(name); err != nil {
		return 0, err
	}
	protocol := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)))
	return unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
}
