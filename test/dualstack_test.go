package test

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
)

// The node's addresses of IPv6, and those of who is outside. They are of a range that is local to a site, and nobody's here.
const (
	nodeAddrIPv6    = "fd00:51::1"
	outsideAddrIPv6 = "fd00:51::2"
)

// TestDualStack holds one cluster, with addresses of both families, to what that promises.
func TestDualStack(t *testing.T) {
	n := newNode(t, "--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112")
	n.addImages("resolver")
	host(t, "ip -n "+n.netns+" address add "+nodeAddrIPv6+"/64 dev uplink nodad")
	host(t, "ip -n "+n.outside+" address add "+outsideAddrIPv6+"/64 dev node nodad")
	n.start()
	s := n.namespace(t, "both")
	s.do("kubectl apply -f services/01-clusterip.yaml")
	s.do("kubectl rollout status deployment/web --timeout=60s && kubectl wait --for=condition=Ready pod/client --timeout=60s")
	for _, promise := range []struct {
		name string
		test func(*testing.T, *shell)
	}{
		{"a node and its pods have addresses of both families", testBothAddresses},
		{"pods reach pods and their node by both", testBothReach},
		{"the DNS has an address of each, and knows of both", testBothNames},
		{"Services have addresses of ranges that come later, too", testLaterRanges},
		{"the lesson about both families is true", testBothLesson},
		{"a node that gets another address is known by that", testNewAddress},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.test(t, s.with(t, s.kubectl)) })
	}
}

// TestIPv6Alone holds a cluster that has no IPv4 to what every cluster promises first: a pod reaches a Service by its name.
func TestIPv6Alone(t *testing.T) {
	n := newNode(t, "--cluster-cidr", "fd00:42::/56", "--service-cidr", "fd00:43::/112")
	host(t, "ip -n "+n.netns+" address add "+nodeAddrIPv6+"/64 dev uplink nodad")
	n.start()
	s := n.namespace(t, "alone")
	s.do("kubectl apply -f services/01-clusterip.yaml")
	s.do("kubectl rollout status deployment/web --timeout=60s && kubectl wait --for=condition=Ready pod/client --timeout=60s")
	s.says("kubectl get pod client -o jsonpath='{.status.podIPs[*].ip} {.status.hostIPs[*].ip}'", `fd00:42::[0-9a-f]+ `+nodeAddrIPv6)
	s.until("kubectl exec client -- curl -sS --max-time 2 web", `web-\S+`)
	s.says("kubectl exec client -- sh -c 'curl -sS -k --max-time 5 https://[$KUBERNETES_SERVICE_HOST]/readyz'", "ok")
}

func testBothAddresses(_ *testing.T, s *shell) {
	s.says("kubectl get node -o jsonpath='{.items[0].spec.podCIDR} {.items[0].spec.podCIDRs[*]}'", "10.42.0.0/24 10.42.0.0/24 fd00:42::/64")
	s.says(`kubectl get node -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}'`, nodeAddr+" "+nodeAddrIPv6)
	s.says("kubectl get pod client -o jsonpath='{.status.podIP} {.status.podIPs[*].ip} {.status.hostIPs[*].ip}'",
		`(10\.42\.0\.\d+) 10\.42\.0\.\d+ fd00:42::[0-9a-f]+ `+regexp.QuoteMeta(nodeAddr+" "+nodeAddrIPv6))
	s.says("kubectl exec client -- sh -c 'grep -c client /etc/hosts'", "2")
}

func testBothReach(t *testing.T, s *shell) {
	for i, node := range []string{"10.42.0.1", "fd00:42::1"} {
		pods := strings.Fields(s.do("kubectl get pods -l app=web -o jsonpath='{.items[*].status.podIPs[" + string(rune('0'+i)) + "].ip}'"))
		if len(pods) != 2 {
			t.Fatalf("the pods have the addresses %q, want two", pods)
		}
		for _, pod := range pods {
			s.says("kubectl exec client -- curl -sS --max-time 5 "+at(pod, "80"), `web-\S+`)
			if r := s.get(s.netns, at(pod, "80"), "/"); !strings.HasPrefix(r.stdout, "web-") {
				t.Errorf("the node does not reach a pod: %v", r)
			}
		}
		s.says("kubectl exec client -- curl -sS -k --max-time 5 https://"+strings.TrimPrefix(at(node, "6443"), "http://")+"/readyz", "ok")
	}
}

func testBothNames(t *testing.T, s *shell) {
	s.do("kubectl apply -f " + repository("test/testdata/resolver.yaml") + " && kubectl wait --for=condition=Ready pod/resolver --timeout=60s")
	s.says("kubectl exec resolver -- grep nameserver /etc/resolv.conf", `nameserver 10\.43\.0\.10\nnameserver fd00:43::a`)
	s.says("kubectl get service kube-dns -n kube-system -o jsonpath='{.spec.clusterIPs[*]}'", `10\.43\.0\.10 fd00:43::a`)
	s.do(`kubectl patch service web -p '{"spec": {"ipFamilyPolicy": "PreferDualStack"}}'`)
	addresses := s.do("kubectl get service web -o jsonpath='{.spec.clusterIPs[*]}'")
	for library, command := range map[string]string{"glibc": "getent ahosts", "musl": "musl-lookup"} {
		found := s.do("kubectl exec resolver -- " + command + " web | cut -d' ' -f1 | sort -u | xargs")
		if found != addresses {
			t.Errorf("%s finds web at %q, want %q", library, found, addresses)
		}
	}
	for _, server := range []string{"10.43.0.10", "fd00:43::a"} {
		for question, want := range map[string]string{"web.both.svc.cluster.local A": strings.Fields(addresses)[0], "web.both.svc.cluster.local AAAA": strings.Fields(addresses)[1],
			"-x fd00:43::a": "kube-dns.kube-system.svc.cluster.local.", "+tcp -x 10.43.0.10": "kube-dns.kube-system.svc.cluster.local."} {
			s.says("kubectl exec resolver -- dig +short @"+server+" "+question, regexp.QuoteMeta(want))
		}
	}
}

func testLaterRanges(t *testing.T, s *shell) {
	s.do(`echo '{"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "later"}, "spec": {"cidrs": ["10.60.0.0/24", "fd00:60::/112"]}}' | kubectl apply -f -`)
	s.do("kubectl wait --for=condition=Ready servicecidr/later --timeout=30s")
	s.do(`kubectl expose deployment web --name later --overrides '{"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.60.0.7", "clusterIPs": ["10.60.0.7", "fd00:60::7"]}}'`)
	for _, address := range []string{"10.60.0.7", "fd00:60::7"} {
		s.until("kubectl exec client -- curl -sS --max-time 2 "+at(address, "80"), `web-\S+`)
	}
	for _, unused := range []string{"10.60.0.99", "fd00:60::99"} {
		s.until("ip -n "+s.netns+" route get "+unused, `(?s).*dev skiff0.*`)
		s.until("kubectl exec client -- sh -c 'curl -sS --max-time 2 "+at(unused, "80")+"; echo status $?'", "status 7")
		if r := s.get(s.netns, at(unused, "80"), "/"); !strings.Contains(r.stderr, "refused") {
			t.Errorf("the node is not refused at %s: %v", unused, r)
		}
	}
	s.do("kubectl delete servicecidr later --wait=false")
	s.until(`kubectl get servicecidr later -o jsonpath='{.status.conditions[0].reason}'`, "Terminating")
	s.do("kubectl delete service later")
}

func at(addr, port string) string { return "http://" + net.JoinHostPort(addr, port) }

// testBothLesson takes the lesson about both families, and asks its Service by IPv6 in every way.
func testBothLesson(t *testing.T, s *shell) {
	const name = `web-[0-9a-z]+-[0-9a-z]{5}`
	s.do("kubectl apply -f services/07-dualstack.yaml")
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=web-both -o jsonpath='{.items[*].addressType}' | xargs -n1 | sort", `IPv4\nIPv6`)
	addresses := strings.Fields(s.do("kubectl get service web-both -o jsonpath='{.spec.clusterIPs[*]}'"))
	if len(addresses) != 2 || !strings.HasPrefix(addresses[1], "fd00:43::") {
		t.Fatalf("the Service has the addresses %q, want one of each family", addresses)
	}
	for _, asked := range []string{"-4 web-both", "-6 web-both", addresses[0], at(addresses[1], "80")} {
		s.until("kubectl exec client -- curl -sS --max-time 2 "+asked, name)
	}
	if r := s.get(s.netns, at(addresses[1], "80"), "/"); !strings.HasPrefix(r.stdout, "web-") {
		t.Errorf("the node does not reach the Service: %v", r)
	}
	for _, node := range []string{nodeAddr, nodeAddrIPv6} {
		s.untilAnswers(at(node, "30087"), "/", name+`\n`)
	}

	s.do("kubectl apply -f services/06-policy.yaml")
	s.until("kubectl exec client -- sh -c 'curl -6 -sS --max-time 1 web-both; echo status $?'", "status 28")
	s.do("kubectl label pod client access=web")
	s.until("kubectl exec client -- curl -6 -sS --max-time 1 web-both", name)
	s.do("kubectl delete -f services/06-policy.yaml")

	s.do("kubectl patch service web-both -p '{\"spec\": {\"selector\": {\"app\": \"nobody\"}}}'")
	for _, address := range addresses {
		s.until("kubectl exec client -- sh -c 'curl -sS --max-time 2 "+at(address, "80")+"; echo status $?'", "status 7")
	}
}

// testNewAddress gives the node another address, as DHCP may, and takes the old one.
func testNewAddress(t *testing.T, s *shell) {
	const moved = "198.51.100.9"
	s.do("kubectl apply -f - <<end\n" + `
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: sleep, image: nginx, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
end`)
	s.do("kubectl wait --for=condition=Ready pod/host --timeout=60s")
	known := map[string]string{
		`kubectl get node -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}'`: "%s " + nodeAddrIPv6,
		"kubectl get pod host -o jsonpath='{.status.podIPs[*].ip}'":                                    "%s " + nodeAddrIPv6,
		"kubectl get pod client -o jsonpath='{.status.hostIP}'":                                        "%s",
		"kubectl get service outside -o jsonpath='{.status.loadBalancer.ingress[*].ip}'":               "%s",
		"kubectl get endpointslices -n default kubernetes -o jsonpath='{.endpoints[*].addresses[*]}'":  "%s",
	}
	for line, want := range known {
		s.until(line, regexp.QuoteMeta(fmt.Sprintf(want, nodeAddr)))
	}
	host(t, "ip -n "+s.netns+" address del "+nodeAddr+"/24 dev uplink")
	host(t, "ip -n "+s.netns+" address add "+moved+"/24 dev uplink")
	for line, want := range known {
		s.until(line, regexp.QuoteMeta(fmt.Sprintf(want, moved)))
	}
	s.says("kubectl exec host -- echo here", "here") // The API server reaches the agent there, whose certificate says so.
	s.says("kubectl exec client -- sh -c 'curl -sS -k --max-time 5 https://$KUBERNETES_SERVICE_HOST/readyz'", "ok")
	if r := s.get(s.outside, "https://"+moved+":6443", "/readyz"); r.stdout != "ok" {
		t.Errorf("from outside the API does not answer: %v", r)
	}
}
