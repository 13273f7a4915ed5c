package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// Each test here is a section of "Kubernetes DNS-Based Service Discovery", schema version 1.1
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md): the objects, the questions, and the answers as
// zone-file text.

func TestSpec_2_2_SchemaVersion(t *testing.T) {
	zone := newZone(t, "")
	zone.ask("dns-version.cluster.local. TXT", `
		NOERROR
		dns-version.cluster.local. 28800 IN TXT "1.1.0"`)
}

const clusterIPService = `
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: ClusterIP
  clusterIP: 10.43.0.80
  clusterIPs: [10.43.0.80, "fd00:43::80"]
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080}
  - {name: dns, protocol: UDP, port: 53}
---
kind: Service
metadata: {name: plain, namespace: default}
spec:
  clusterIP: 10.43.0.81
  ports: [{protocol: TCP, port: 80}]
`

func TestSpec_2_3_1_ClusterIPAddress(t *testing.T) {
	zone := newZone(t, clusterIPService)
	zone.ask("web.default.svc.cluster.local. A", `
		NOERROR
		web.default.svc.cluster.local. 5 IN A 10.43.0.80`)
	zone.ask("web.default.svc.cluster.local. AAAA", `
		NOERROR
		web.default.svc.cluster.local. 5 IN AAAA fd00:43::80`)
	zone.ask("plain.default.svc.cluster.local. A", `
		NOERROR
		plain.default.svc.cluster.local. 5 IN A 10.43.0.81`)
	zone.ask("plain.default.svc.cluster.local. AAAA", noData)
}

func TestSpec_2_3_2_ClusterIPPorts(t *testing.T) {
	zone := newZone(t, clusterIPService)
	zone.ask("_http._tcp.web.default.svc.cluster.local. SRV", `
		NOERROR
		_http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.
		;; additional
		web.default.svc.cluster.local. 5 IN A 10.43.0.80
		web.default.svc.cluster.local. 5 IN AAAA fd00:43::80`)
	zone.ask("_dns._udp.web.default.svc.cluster.local. SRV", `
		NOERROR
		_dns._udp.web.default.svc.cluster.local. 5 IN SRV 0 100 53 web.default.svc.cluster.local.
		;; additional
		web.default.svc.cluster.local. 5 IN A 10.43.0.80
		web.default.svc.cluster.local. 5 IN AAAA fd00:43::80`)
	zone.ask("_dns._tcp.web.default.svc.cluster.local. SRV", noName)
	zone.ask("_https._tcp.web.default.svc.cluster.local. SRV", noName)
	zone.ask("_._tcp.plain.default.svc.cluster.local. SRV", noName)
	zone.ask("_http._tcp.web.default.svc.cluster.local. A", noData)
	zone.ask("_tcp.web.default.svc.cluster.local. SRV", noData) // There are names below it.
}

func TestSpec_2_3_3_ClusterIPPointer(t *testing.T) {
	zone := newZone(t, clusterIPService)
	zone.ask("80.0.43.10.in-addr.arpa. PTR", `
		NOERROR
		80.0.43.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local.`)
	zone.ask("0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa. PTR", `
		NOERROR
		0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa. 5 IN PTR web.default.svc.cluster.local.`)
	zone.ask("99.0.43.10.in-addr.arpa. PTR", `
		NXDOMAIN
		;; authority
		43.10.in-addr.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5`)
	zone.ask("1.1.168.192.in-addr.arpa. PTR", `
		NOERROR
		elsewhere: 1.1.168.192.in-addr.arpa.`)
}

// web-0 is in two slices, as happens while the controller moves endpoints about; 10.42.0.9 is not ready.
const headlessService = `
kind: Service
metadata: {name: pets, namespace: default}
spec:
  clusterIP: None
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: web}
---
kind: EndpointSlice
metadata: {name: pets-a, namespace: default, labels: {kubernetes.io/service-name: pets}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}, {protocol: TCP, port: 9999}]
endpoints:
- {addresses: [10.42.0.7], hostname: pet-0, conditions: {ready: true}}
- {addresses: [10.42.0.8]}
- {addresses: [10.42.0.9], hostname: pet-9, conditions: {ready: false}}
---
kind: EndpointSlice
metadata: {name: pets-b, namespace: default, labels: {kubernetes.io/service-name: pets}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints:
- {addresses: [10.42.0.7], hostname: pet-0, conditions: {ready: true}}
---
kind: EndpointSlice
metadata: {name: pets-six, namespace: default, labels: {kubernetes.io/service-name: pets}}
addressType: IPv6
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints:
- {addresses: ["fd00:42::7"], hostname: pet-0, conditions: {ready: true}}
- {addresses: ["fd00:42::8"], conditions: {ready: true}}
`

func TestSpec_2_4_1_HeadlessAddresses(t *testing.T) {
	zone := newZone(t, headlessService)
	zone.ask("pets.default.svc.cluster.local. A", `
		NOERROR
		pets.default.svc.cluster.local. 5 IN A 10.42.0.7
		pets.default.svc.cluster.local. 5 IN A 10.42.0.8`)
	zone.ask("pets.default.svc.cluster.local. AAAA", `
		NOERROR
		pets.default.svc.cluster.local. 5 IN AAAA fd00:42::7
		pets.default.svc.cluster.local. 5 IN AAAA fd00:42::8`)
	zone.ask("pet-0.pets.default.svc.cluster.local. A", `
		NOERROR
		pet-0.pets.default.svc.cluster.local. 5 IN A 10.42.0.7`)
	zone.ask("pet-0.pets.default.svc.cluster.local. AAAA", `
		NOERROR
		pet-0.pets.default.svc.cluster.local. 5 IN AAAA fd00:42::7`)
	zone.ask("10-42-0-8.pets.default.svc.cluster.local. A", `
		NOERROR
		10-42-0-8.pets.default.svc.cluster.local. 5 IN A 10.42.0.8`)
	zone.ask("fd00-42--8.pets.default.svc.cluster.local. AAAA", `
		NOERROR
		fd00-42--8.pets.default.svc.cluster.local. 5 IN AAAA fd00:42::8`)
	zone.ask("pet-9.pets.default.svc.cluster.local. A", noName)
	zone.ask("10-42-0-7.pets.default.svc.cluster.local. A", noName) // It has a hostname, so that is its name.
}

func TestSpec_2_4_1_HeadlessWithoutReadyEndpoints(t *testing.T) {
	objects := `
kind: Service
metadata: {name: empty, namespace: default}
spec: {clusterIP: None}
---
kind: EndpointSlice
metadata: {name: empty-a, namespace: default, labels: {kubernetes.io/service-name: empty}}
addressType: IPv4
endpoints: [{addresses: [10.42.0.9], conditions: {ready: false}}]
`
	newZone(t, objects).ask("empty.default.svc.cluster.local. A", noName)
	published := strings.Replace(objects, "{clusterIP: None}", "{clusterIP: None, publishNotReadyAddresses: true}", 1)
	newZone(t, published).ask("empty.default.svc.cluster.local. A", `
		NOERROR
		empty.default.svc.cluster.local. 5 IN A 10.42.0.9`)
}

func TestSpec_2_4_1_SharedHostname(t *testing.T) {
	zone := newZone(t, `
kind: Service
metadata: {name: pair, namespace: default}
spec: {clusterIP: None}
---
kind: EndpointSlice
metadata: {name: pair-a, namespace: default, labels: {kubernetes.io/service-name: pair}}
addressType: IPv4
endpoints: [{addresses: [10.42.0.1], hostname: twin}, {addresses: [10.42.0.2], hostname: twin}]
`)
	zone.ask("twin.pair.default.svc.cluster.local. A", `
		NOERROR
		twin.pair.default.svc.cluster.local. 5 IN A 10.42.0.1
		twin.pair.default.svc.cluster.local. 5 IN A 10.42.0.2`)
}

func TestSpec_2_4_2_HeadlessPorts(t *testing.T) {
	zone := newZone(t, headlessService)
	zone.ask("_http._tcp.pets.default.svc.cluster.local. SRV", `
		NOERROR
		_http._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 33 8080 10-42-0-8.pets.default.svc.cluster.local.
		_http._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 33 8080 fd00-42--8.pets.default.svc.cluster.local.
		_http._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 33 8080 pet-0.pets.default.svc.cluster.local.
		;; additional
		10-42-0-8.pets.default.svc.cluster.local. 5 IN A 10.42.0.8
		fd00-42--8.pets.default.svc.cluster.local. 5 IN AAAA fd00:42::8
		pet-0.pets.default.svc.cluster.local. 5 IN A 10.42.0.7
		pet-0.pets.default.svc.cluster.local. 5 IN AAAA fd00:42::7`)
}

func TestSpec_2_4_3_HeadlessPointers(t *testing.T) {
	zone := newZone(t, headlessService+`
---
kind: Service
metadata: {name: toys, namespace: play}
spec: {clusterIP: None}
---
kind: EndpointSlice
metadata: {name: toys-a, namespace: play, labels: {kubernetes.io/service-name: toys}}
addressType: IPv4
endpoints: [{addresses: [10.42.0.8], hostname: ball}, {addresses: [192.168.1.1], hostname: outside}]
---
kind: EndpointSlice
metadata: {name: toys-b, namespace: play, labels: {kubernetes.io/service-name: toys}}
addressType: IPv6
endpoints: [{addresses: ["fd00:42::8"], hostname: ball}, {addresses: ["fd00:42::1:0:0:0"]}]
`)
	zone.ask("7.0.42.10.in-addr.arpa. PTR", `
		NOERROR
		7.0.42.10.in-addr.arpa. 5 IN PTR pet-0.pets.default.svc.cluster.local.`)
	zone.ask("8.0.42.10.in-addr.arpa. PTR", `
		NOERROR
		8.0.42.10.in-addr.arpa. 5 IN PTR 10-42-0-8.pets.default.svc.cluster.local.
		8.0.42.10.in-addr.arpa. 5 IN PTR ball.toys.play.svc.cluster.local.`)
	const zeros = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0."
	zone.ask("8."+zeros+"0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa. PTR", `
		NOERROR
		8.`+zeros+`0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa. 5 IN PTR fd00-42--8.pets.default.svc.cluster.local.
		8.`+zeros+`0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa. 5 IN PTR ball.toys.play.svc.cluster.local.`)
	const colons = "0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa." // fd00:42:0:0:1::
	zone.ask(colons+" PTR", `
		NOERROR
		`+colons+` 5 IN PTR fd00-42-0-0-1--0.toys.play.svc.cluster.local.`)
	zone.ask("9."+zeros+"0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa. PTR", `
		NXDOMAIN
		;; authority
		0.0.0.0.0.0.0.0.2.4.0.0.0.0.d.f.ip6.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5`)
	zone.ask("9.0.42.10.in-addr.arpa. PTR", `
		NXDOMAIN
		;; authority
		42.10.in-addr.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5`)
	zone.ask("1.1.168.192.in-addr.arpa. PTR", `
		NOERROR
		elsewhere: 1.1.168.192.in-addr.arpa.`) // Not an address of the cluster, whoever uses it.
}

func TestSpec_2_5_ExternalName(t *testing.T) {
	external := func(name, target string) string {
		return fmt.Sprintf("kind: Service\nmetadata: {name: %s, namespace: default}\n"+
			"spec: {type: ExternalName, externalName: %q, ports: [{name: http, port: 80}]}\n---\n", name, target)
	}
	zone := newZone(t, external("out", "www.Example.com")+external("in", "web.default.svc.cluster.local.")+
		external("lost", "nobody.default.svc.cluster.local")+external("ring", "ring.default.svc.cluster.local")+
		external("number", "192.0.2.1")+clusterIPService)

	zone.ask("out.default.svc.cluster.local. CNAME", `
		NOERROR
		out.default.svc.cluster.local. 5 IN CNAME www.example.com.`)
	zone.ask("out.default.svc.cluster.local. A", `
		NOERROR
		out.default.svc.cluster.local. 5 IN CNAME www.example.com.
		elsewhere: www.example.com.`)
	zone.ask("in.default.svc.cluster.local. A", `
		NOERROR
		in.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.
		web.default.svc.cluster.local. 5 IN A 10.43.0.80`)
	zone.ask("in.default.svc.cluster.local. MX", `
		NOERROR
		in.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.`+soaText)
	zone.ask("lost.default.svc.cluster.local. A", `
		NXDOMAIN
		lost.default.svc.cluster.local. 5 IN CNAME nobody.default.svc.cluster.local.`+soaText)
	zone.ask("ring.default.svc.cluster.local. A", "SERVFAIL")
	zone.ask("number.default.svc.cluster.local. A", noName)
	zone.ask("_http._tcp.out.default.svc.cluster.local. SRV", noName)
	zone.ask("below.out.default.svc.cluster.local. A", noName)
}

func TestSpec_2_6_PodRecords(t *testing.T) {
	zone := newZone(t, "")
	zone.ask("10-42-0-3.default.pod.cluster.local. A", `
		NOERROR
		10-42-0-3.default.pod.cluster.local. 5 IN A 10.42.0.3`)
	zone.ask("10-42-0-3.default.pod.cluster.local. AAAA", noData)
	zone.ask("fd00-42--3.default.pod.cluster.local. AAAA", `
		NOERROR
		fd00-42--3.default.pod.cluster.local. 5 IN AAAA fd00:42::3`)
	zone.ask("fd00-42--3.default.pod.cluster.local. A", noData)
	zone.ask("fd00-42-0-0-1--0.default.pod.cluster.local. AAAA", `
		NOERROR
		fd00-42-0-0-1--0.default.pod.cluster.local. 5 IN AAAA fd00:42:0:0:1::`)
	zone.ask("fd00-42--x.default.pod.cluster.local. AAAA", noName)
	zone.ask("10-42-0-3.nowhere.pod.cluster.local. A", noName)
	zone.ask("10-42-0-300.default.pod.cluster.local. A", noName)
	zone.ask("web.default.pod.cluster.local. A", noName)
	zone.ask("x.10-42-0-3.default.pod.cluster.local. A", noName)
	zone.ask("10-42-0-3.default.svc.cluster.local. A", noName)
}

// What the specification takes for granted, and what resolvers depend on.

func TestNamesThatExistWithoutRecords(t *testing.T) {
	zone := newZone(t, clusterIPService)
	for _, name := range []string{"svc", "pod", "default.svc", "default.pod", "dns", "web.default.svc"} {
		zone.ask(name+".cluster.local. MX", noData)
	}
	for _, name := range []string{"other", "nowhere.svc", "nowhere.pod", "web.nowhere.svc", "nobody.default.svc",
		"x.web.default.svc", "x._http._tcp.web.default.svc", "*.default.svc", "any.default.svc", "*.svc", `web\.default.svc`} {
		zone.ask(name+".cluster.local. A", noName)
	}
}

func TestApex(t *testing.T) {
	zone := newZone(t, "")
	zone.ask("cluster.local. SOA", `
		NOERROR
		cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5`)
	zone.ask("cluster.local. NS", `
		NOERROR
		cluster.local. 5 IN NS ns.dns.cluster.local.
		;; additional
		ns.dns.cluster.local. 5 IN A 10.43.0.10`)
	zone.ask("ns.dns.cluster.local. A", `
		NOERROR
		ns.dns.cluster.local. 5 IN A 10.43.0.10`)
	zone.ask("cluster.local. A", noData)
	zone.ask("default.svc.cluster.local. SOA", noData)
	zone.ask("43.10.in-addr.arpa. NS", `
		NOERROR
		43.10.in-addr.arpa. 5 IN NS ns.dns.cluster.local.
		;; additional
		ns.dns.cluster.local. 5 IN A 10.43.0.10`)
	zone.ask("local. A", "NOERROR\nelsewhere: local.")
	zone.ask("cluster.local.example. A", "NOERROR\nelsewhere: cluster.local.example.")
	zone.ask(`x\.cluster.local. A`, "NOERROR\nelsewhere: x\\.cluster.local.") // One label "x.cluster" below local.
}

func TestCaseIsKeptAndIgnored(t *testing.T) {
	zone := newZone(t, clusterIPService)
	zone.ask("wEb.DEFAULT.svc.Cluster.LOCAL. A", `
		NOERROR
		wEb.DEFAULT.svc.Cluster.LOCAL. 5 IN A 10.43.0.80`)
	zone.ask("_HTTP._Tcp.web.default.svc.cluster.local. SRV", `
		NOERROR
		_HTTP._Tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.
		;; additional
		web.default.svc.cluster.local. 5 IN A 10.43.0.80
		web.default.svc.cluster.local. 5 IN AAAA fd00:43::80`)
	zone.ask("web.default.svc.cluster.local. A", `
		NOERROR
		web.default.svc.cluster.local. 5 IN A 10.43.0.80`) // The index's own record was not changed by the first.
}

func TestAnyTypeIsAllRecords(t *testing.T) {
	newZone(t, clusterIPService).ask("web.default.svc.cluster.local. ANY", `
		NOERROR
		web.default.svc.cluster.local. 5 IN A 10.43.0.80
		web.default.svc.cluster.local. 5 IN AAAA fd00:43::80`)
}

const soaText = `
	;; authority
	cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5`

const (
	noData = "NOERROR" + soaText
	noName = "NXDOMAIN" + soaText
)

// testZone is an index with a Namespace "default" and the objects of a test in it.
type testZone struct {
	t testing.TB
	*index
}

func newZone(t testing.TB, objects string) testZone {
	t.Helper()
	const domain = "cluster.local."
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"),
		netip.MustParsePrefix("fd00:42::/64"), netip.MustParsePrefix("fd00:43::/112")}
	x := newTestIndex(t, apexRecords(domain, reverseZones(prefixes), []netip.Addr{netip.MustParseAddr("10.43.0.10")}, 7, PodsInsecure))
	x.insecure = true
	x.put("default", namespaceRecords(domain, "default", PodsInsecure))
	services, endpointSlices := parseObjects(t, objects)
	for _, svc := range services {
		key := svc.Namespace + "/" + svc.Name
		x.put(key, serviceRecords(domain, svc, endpointSlices[key]))
	}
	return testZone{t, x}
}

// ask checks the answer to "name TYPE". The order of records within a section is chance, and is not compared.
func (z testZone) ask(question, want string) {
	z.t.Helper()
	name, rrtype, _ := strings.Cut(question, " ")
	got := z.answer(name, dns.StringToType[rrtype])
	if diff := cmp.Diff(sorted(want), sorted(answerText(got))); diff != "" {
		z.t.Errorf("%s (-want +got):\n%s", question, diff)
	}
}

func answerText(a answer) string {
	var text strings.Builder
	fmt.Fprintln(&text, dns.RcodeToString[a.rcode])
	for _, rr := range a.records {
		fmt.Fprintln(&text, rr)
	}
	if a.elsewhere != "" {
		fmt.Fprintln(&text, "elsewhere:", a.elsewhere)
	}
	for _, section := range []struct {
		title string
		rrs   []dns.RR
	}{{";; authority", a.authority}, {";; additional", a.extra}} {
		if len(section.rrs) > 0 {
			fmt.Fprintln(&text, section.title)
		}
		for _, rr := range section.rrs {
			fmt.Fprintln(&text, rr)
		}
	}
	return text.String()
}

// sorted returns the lines of text without indentation, with one space between words, and sorted within each section.
// An alias stays before what it leads to.
func sorted(text string) []string {
	var lines []string
	start := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		lines = append(lines, strings.Join(words, " "))
		if words[0] == ";;" || len(lines) == 1 || slices.Contains(words, "CNAME") {
			slices.Sort(lines[start:max(start, len(lines)-1)])
			start = len(lines)
		}
	}
	slices.Sort(lines[start:])
	return lines
}

func parseObjects(t testing.TB, text string) ([]*corev1.Service, map[string][]*discoveryv1.EndpointSlice) {
	t.Helper()
	var services []*corev1.Service
	endpointSlices := map[string][]*discoveryv1.EndpointSlice{}
	for document := range strings.SplitSeq(text, "---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		into, slice := any(nil), &discoveryv1.EndpointSlice{}
		if strings.Contains(document, "kind: EndpointSlice") {
			into = slice
		} else {
			services = append(services, &corev1.Service{})
			into = services[len(services)-1]
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatalf("parse %s: %v", document, err)
		}
		for _, key := range serviceKey(slice) {
			endpointSlices[key] = append(endpointSlices[key], slice)
		}
	}
	return services, endpointSlices
}
