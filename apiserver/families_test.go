package apiserver

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/store/bolt"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const dnsPath = "/api/v1/namespaces/kube-system/services/kube-dns"

// startRanges starts a server on the store in a file, with some ranges and the tenth address of each for the DNS.
func startRanges(t testing.TB, file string, ranges ...string) *running {
	t.Helper()
	db, err := bolt.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig(t)
	config.ServiceCIDRs, config.ClusterDNS = nil, nil
	for _, text := range ranges {
		p := netip.MustParsePrefix(text)
		config.ServiceCIDRs = append(config.ServiceCIDRs, p)
		config.ClusterDNS = append(config.ClusterDNS, addTo(p.Addr(), 10))
	}
	if config.ServiceCIDRs[0].Addr().Is6() {
		config.Advertise = netip.MustParseAddrPort("[2001:db8::1]:6443")
	}
	return startWith(t, db, config)
}

func startDual(t testing.TB) *running {
	t.Helper()
	return startRanges(t, filepath.Join(t.TempDir(), "store"), "10.43.0.0/16", "fd43::/112")
}

func (s *running) service(t testing.TB, path string) *corev1.Service {
	t.Helper()
	return parse[corev1.Service](t, s.do(t, "GET", path, "").want(t, 200))
}

// addressKeys are where the records of a Service's addresses lie.
func addressKeys(svc *corev1.Service) (keys []string) {
	for _, ip := range svc.Spec.ClusterIPs {
		keys = append(keys, holding{address: ip}.storeKey())
	}
	slices.Sort(keys)
	return keys
}

// A Service has an address of each family that it wants, on record for as long as it has it.
func TestServiceOfBothFamilies(t *testing.T) {
	s := startDual(t)
	svc := s.createService(t, "a", `"ipFamilyPolicy":"PreferDualStack"`)
	ips := svc.Spec.ClusterIPs
	if len(ips) != 2 || ips[0] != svc.Spec.ClusterIP || !strings.HasPrefix(ips[0], "10.43.") || !strings.HasPrefix(ips[1], "fd43::") {
		t.Fatalf("addresses %v, want one of each family", ips)
	}
	s.expectAddresses(t, "after the creation", addressKeys(svc)...)
	record := parse[networkingv1.IPAddress](t, s.do(t, "GET", addressesPath+"/"+ips[1], "").want(t, 200))
	if record.Labels[networkingv1.LabelIPAddressFamily] != "IPv6" || record.Spec.ParentRef.Name != "a" {
		t.Errorf("the record is %s", toJSON(t, record))
	}

	again := parse[corev1.Service](t, s.do(t, "PUT", servicesPath+"/a", serviceJSON("a", "")).want(t, 200))
	if !slices.Equal(again.Spec.ClusterIPs, ips) {
		t.Errorf("the same YAML again gives addresses %v, want %v", again.Spec.ClusterIPs, ips)
	}
	single := parse[corev1.Service](t, s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"ipFamilyPolicy":"SingleStack"}}`, merge...).want(t, 200))
	if !slices.Equal(single.Spec.ClusterIPs, ips[:1]) || len(single.Spec.IPFamilies) != 1 {
		t.Errorf("one family of two: %+v", single.Spec)
	}
	s.expectAddresses(t, "without the second", addressKeys(single)...)
	s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"ipFamilyPolicy":"RequireDualStack","clusterIPs":["`+ips[0]+`","fd43::77"]}}`, merge...).want(t, 200)
	s.expectAddresses(t, "with another second", addressKeys(s.service(t, servicesPath+"/a"))...)
	s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"type":"ExternalName","externalName":"example.com"}}`, merge...).want(t, 200)
	s.expectAddresses(t, "of another name")
	back := parse[corev1.Service](t, s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"type":"NodePort","ipFamilyPolicy":"RequireDualStack","ipFamilies":["IPv6"]}}`, merge...).want(t, 200))
	if len(back.Spec.ClusterIPs) != 2 || !strings.HasPrefix(back.Spec.ClusterIP, "fd43::") || back.Spec.Ports[0].NodePort == 0 {
		t.Errorf("with addresses again: %+v", back.Spec)
	}
	s.do(t, "DELETE", servicesPath+"/a", "").want(t, 200)
	s.expectRecords(t, "when it is gone", ipAddresses+"/fd43::a")
}

// expectAddresses compares the records of addresses alone.
func (s *running) expectAddresses(t testing.TB, when string, want ...string) {
	t.Helper()
	got := slices.DeleteFunc(s.recorded(t), func(key string) bool {
		return !strings.HasPrefix(key, ipAddresses) || strings.HasSuffix(key, "/fd43::a") || strings.HasSuffix(key, "/fd43::1")
	})
	if !slices.Equal(got, want) {
		t.Errorf("%s the records are %v, want %v", when, got, want)
	}
}

// An address is one, however it is written, and what cannot be had of the second family is refused with the first.
func TestServiceAddressOfSecondFamily(t *testing.T) {
	s := startDual(t)
	s.createService(t, "a", `"clusterIP":"fd43::5"`)
	post := func(more string) answer { return s.do(t, "POST", servicesPath, serviceJSON("b", more)) }
	post(`"clusterIP":"FD43:0::5"`).refused(t, 422, metav1.StatusReasonInvalid,
		`spec.clusterIPs: Invalid value: ["FD43:0::5"]: failed to allocate IP FD43:0::5: provided IP is already allocated`)
	post(`"ipFamilyPolicy":"RequireDualStack","clusterIP":"10.43.5.5","clusterIPs":["10.43.5.5","fd43::5"]`).refused(t, 422, metav1.StatusReasonInvalid,
		`spec.clusterIPs: Invalid value: ["10.43.5.5","fd43::5"]: failed to allocate IP fd43::5: provided IP is already allocated`)
	post(`"clusterIP":"fd44::5"`).refused(t, 422, metav1.StatusReasonInvalid, "the provided IP (fd44::5) is not in the valid range. The range of valid IPs is fd43::/112")
	for _, ip := range []string{"fd43::", "10.43.0.0", "10.43.255.255"} {
		post(`"clusterIP":"`+ip+`"`).refused(t, 422, metav1.StatusReasonInvalid, "the provided IP ("+ip+") is not in the valid range")
	}
	post(`"clusterIP":"fd43::ffff"`).want(t, 201)
	s.do(t, "POST", servicesPath+"?dryRun=All", serviceJSON("c", `"ipFamilyPolicy":"PreferDualStack"`)).want(t, 201)
	s.expectAddresses(t, "afterwards", ipAddresses+"/fd43::5", ipAddresses+"/fd43::ffff")
}

// A second address that a server left behind when it was killed is given back, and one without a record gets one.
func TestRepairOfBothFamilies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startRanges(t, file, "10.43.0.0/16", "fd43::/112")
	svc := s.createService(t, "a", `"ipFamilyPolicy":"PreferDualStack"`)
	ghost := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ghost"}}
	if _, err := s.record(t.Context(), holding{address: "fd43::6"}, ghost); err != nil {
		t.Fatal(err)
	}
	s.do(t, "DELETE", addressesPath+"/"+svc.Spec.ClusterIPs[1], "").want(t, 200)
	s.stop()
	s = startRanges(t, file, "10.43.0.0/16", "fd43::/112")
	s.expectAddresses(t, "after the start", addressKeys(svc)...)
}

// What every cluster begins with follows the ranges of the start: of one family, of both, of both where one was.
func TestFoundationOfEachFamily(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	dns := func(s *running) (what string) {
		svc := s.service(t, dnsPath)
		what = fmt.Sprint(*svc.Spec.IPFamilyPolicy, svc.Spec.ClusterIPs)
		list := parse[discoveryv1.EndpointSliceList](t, s.do(t, "GET", "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", "").want(t, 200))
		for _, slice := range list.Items {
			what += fmt.Sprint(" ", slice.AddressType, slice.Endpoints[0].Addresses)
		}
		cidr := parse[networkingv1.ServiceCIDR](t, s.do(t, "GET", serviceCIDRsPath+"/kubernetes", "").want(t, 200))
		return what + fmt.Sprint(" ", cidr.Spec.CIDRs)
	}
	check := func(s *running, want string) {
		t.Helper()
		if got := dns(s); got != want {
			t.Errorf("with %v: %s\nwant %s", s.config.ServiceCIDRs, got, want)
		}
	}
	s := startRanges(t, file, "10.43.0.0/16")
	check(s, "PreferDualStack[10.43.0.10] IPv4[10.43.0.10] [10.43.0.0/16]")
	first := parse[networkingv1.ServiceCIDR](t, s.do(t, "GET", serviceCIDRsPath+"/kubernetes", ""))
	s.stop()
	s = startRanges(t, file, "10.43.0.0/16", "fd43::/112")
	check(s, "PreferDualStack[10.43.0.10 fd43::a] IPv4[10.43.0.10] IPv6[fd43::a] [10.43.0.0/16 fd43::/112]")
	if now := parse[networkingv1.ServiceCIDR](t, s.do(t, "GET", serviceCIDRsPath+"/kubernetes", "")); now.UID != first.UID {
		t.Error("the ServiceCIDR is another, want the first one with a second range")
	}
	s.stop()
	uid := s.service(t, dnsPath).UID
	s = startRanges(t, file, "10.43.0.0/16", "fd44::/112")
	check(s, "PreferDualStack[10.43.0.10 fd44::a] IPv4[10.43.0.10] IPv6[fd44::a] [10.43.0.0/16 fd44::/112]")
	if got, want := s.recorded(t), []string{ipAddresses + "/fd44::a"}; !slices.Equal(got, want) {
		t.Errorf("with another second range the records are %v, want %v", got, want)
	}
	s.stop()
	s = startRanges(t, file, "10.43.0.0/16")
	check(s, "PreferDualStack[10.43.0.10] IPv4[10.43.0.10] [10.43.0.0/16]")
	s.stop()
	s = startRanges(t, file, "fd44::/112", "10.43.0.0/16") // The first address is for life.
	check(s, "PreferDualStack[10.43.0.10 fd44::a] IPv6[fd44::a] IPv4[10.43.0.10] [fd44::/112 10.43.0.0/16]")
	if now := s.service(t, dnsPath).UID; now != uid {
		t.Error("kube-dns is another, want the first one")
	}
	s.stop()

	s = startRanges(t, filepath.Join(t.TempDir(), "store"), "fd43::/112", "10.43.0.0/16")
	check(s, "PreferDualStack[fd43::a 10.43.0.10] IPv6[fd43::a] IPv4[10.43.0.10] [fd43::/112 10.43.0.0/16]")
	kubernetes := s.service(t, servicesPath+"/kubernetes")
	slice := parse[discoveryv1.EndpointSlice](t, s.do(t, "GET", slicesPath+"/kubernetes", "").want(t, 200))
	if kubernetes.Spec.ClusterIP != "fd43::1" || len(kubernetes.Spec.ClusterIPs) != 1 || slice.AddressType != discoveryv1.AddressTypeIPv6 || slice.Endpoints[0].Addresses[0] != "2001:db8::1" {
		t.Errorf("the Service kubernetes has %v, and the endpoint %s", kubernetes.Spec.ClusterIPs, toJSON(t, slice.Endpoints))
	}
	s.stop()
	check(startRanges(t, filepath.Join(t.TempDir(), "store"), "fd43::/112"), "PreferDualStack[fd43::a] IPv6[fd43::a] [fd43::/112]")
}

// Services get addresses of a ServiceCIDR that a user made: by number, and where the first ranges are full.
func TestServiceCIDRsGiveAddresses(t *testing.T) {
	s := startDual(t)
	s.allocator.cidrs = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/30"), netip.MustParsePrefix("fd43::/112")}
	post := func(name, more string) answer { return s.do(t, "POST", servicesPath, serviceJSON(name, more)) }
	have := map[string]bool{}
	for i := range 2 {
		have[s.createService(t, fmt.Sprint("s", i), "").Spec.ClusterIP] = true
	}
	post("more", "").refused(t, 422, metav1.StatusReasonInvalid, "range 10.50.0.0/30 is full")
	post("number", `"clusterIP":"10.60.0.2"`).refused(t, 422, metav1.StatusReasonInvalid, "The range of valid IPs is 10.50.0.0/30")

	cidr := func(name, cidrs string) string {
		return `{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"` + name + `","finalizers":["example.com/hold"]},"spec":{"cidrs":[` + cidrs + `]}}`
	}
	s.do(t, "POST", serviceCIDRsPath, cidr("extra", `"10.60.0.0/30"`)).want(t, 201)
	have[s.createService(t, "more", "").Spec.ClusterIP] = true
	if len(have) != 3 || !have["10.60.0.1"] && !have["10.60.0.2"] {
		t.Errorf("the addresses are %v, want two of 10.50.0.0/30 and one of 10.60.0.0/30", have)
	}
	s.do(t, "POST", serviceCIDRsPath, cidr("overlapping", `"10.60.0.0/24","fd60::/64"`)).want(t, 201)
	post("number", `"clusterIP":"10.60.0.77"`).want(t, 201)
	post("six", `"clusterIP":"fd60::77"`).want(t, 201)
	s.do(t, "POST", serviceCIDRsPath, cidr("large", `"fd70::/48"`)).want(t, 201)
	post("large", `"clusterIP":"fd70::77"`).refused(t, 422, metav1.StatusReasonInvalid, "The range of valid IPs is fd43::/112,fd60::/64")

	// One that goes, or is not ready, gives none.
	s.do(t, "DELETE", serviceCIDRsPath+"/overlapping", "").want(t, 200)
	post("again", `"clusterIP":"10.60.0.78"`).refused(t, 422, metav1.StatusReasonInvalid, "not in the valid range")
	s.do(t, "PATCH", serviceCIDRsPath+"/extra/status", `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Off","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, merge...).want(t, 200)
	post("again", "").refused(t, 422, metav1.StatusReasonInvalid, "range 10.50.0.0/30 is full")
	s.do(t, "PUT", servicesPath+"/number", serviceJSON("number", `"publishNotReadyAddresses":true`)).want(t, 200) // What it has it keeps.
}

// After a start with other ranges the server's own Services have addresses of these; those of users keep what they have.
func TestOtherRanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startRanges(t, file, "10.43.0.0/16")
	svc := s.createService(t, "a", "")
	for _, tc := range []struct {
		ranges          []string
		kubernetes, dns string
	}{
		{[]string{"10.50.0.0/16"}, "10.50.0.1", "10.50.0.10"},
		{[]string{"fd43::/112", "10.50.0.0/16"}, "fd43::1", "10.50.0.10"},
		{[]string{"10.50.0.0/16", "fd43::/112"}, "10.50.0.1", "10.50.0.10"},
		{[]string{"fd43::/112"}, "fd43::1", "fd43::a"},
	} {
		s.stop()
		s = startRanges(t, file, tc.ranges...)
		kubernetes, dns := s.service(t, servicesPath+"/kubernetes"), s.service(t, dnsPath)
		if kubernetes.Spec.ClusterIP != tc.kubernetes || dns.Spec.ClusterIP != tc.dns {
			t.Errorf("with %v kubernetes has %s and kube-dns %s; want %s and %s", tc.ranges, kubernetes.Spec.ClusterIP, dns.Spec.ClusterIP, tc.kubernetes, tc.dns)
		}
		if now := s.service(t, servicesPath+"/a"); now.Spec.ClusterIP != svc.Spec.ClusterIP {
			t.Errorf("with %v another Service's address is %s, want it kept: %s", tc.ranges, now.Spec.ClusterIP, svc.Spec.ClusterIP)
		}
	}
}

// The server's own Services outlive a start while the ranges are being deleted: no address is given then.
func TestStartWhileRangesGo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startRanges(t, file, "10.43.0.0/16")
	s.do(t, "PATCH", serviceCIDRsPath+"/kubernetes", `{"metadata":{"finalizers":["example.com/hold"]}}`, merge...).want(t, 200)
	s.do(t, "DELETE", serviceCIDRsPath+"/kubernetes", "").want(t, 200)
	paths := []string{servicesPath + "/kubernetes", dnsPath}
	before := map[string]string{}
	for _, path := range paths {
		before[path] = string(s.do(t, "GET", path, "").want(t, 200).body)
	}
	s.stop()
	s = startRanges(t, file, "10.43.0.0/16")
	for _, path := range paths {
		if diff := cmp.Diff(before[path], string(s.do(t, "GET", path, "").body)); diff != "" {
			t.Errorf("%s after the start (-before +after):\n%s", path, diff)
		}
	}
}

// A range that a user made does not keep the server's own Services from following those of a start.
func TestOtherRangesBesideOneOfAUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startRanges(t, file, "10.43.0.0/16")
	s.do(t, "POST", serviceCIDRsPath, `{"metadata":{"name":"before"},"spec":{"cidrs":["10.43.0.0/16"]}}`).want(t, 201)
	s.stop()
	s = startRanges(t, file, "10.50.0.0/16")
	for path, want := range map[string]string{servicesPath + "/kubernetes": "10.50.0.1", dnsPath: "10.50.0.10"} {
		if got := s.service(t, path).Spec.ClusterIP; got != want {
			t.Errorf("%s has %s, want %s", path, got, want)
		}
	}
}

// Where a user's Service has the second address of the DNS, kube-dns goes without, and gets it when that Service goes.
func TestTakenSecondAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startRanges(t, file, "10.43.0.0/16", "fd43::/112")
	s.do(t, "POST", serviceCIDRsPath, `{"metadata":{"name":"later"},"spec":{"cidrs":["fd44::/112"]}}`).want(t, 201)
	s.createService(t, "mine", `"clusterIP":"fd44::a"`)
	s.stop()
	s = startRanges(t, file, "10.43.0.0/16", "fd44::/112")
	if ips := s.service(t, dnsPath).Spec.ClusterIPs; !slices.Equal(ips, []string{"10.43.0.10"}) {
		t.Errorf("kube-dns has %v, want its first address", ips)
	}
	s.do(t, "DELETE", servicesPath+"/mine", "").want(t, 200)
	eventually(t, "kube-dns has both addresses", func() bool {
		return slices.Equal(s.service(t, dnsPath).Spec.ClusterIPs, []string{"10.43.0.10", "fd44::a"})
	})
}

// A Service is reached through the API at an endpoint of the default family, and at another where there is none.
func TestProxyOfBothFamilies(t *testing.T) {
	s := startDual(t)
	s.do(t, "POST", podsPath, `{"metadata":{"name":"web"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"nginx"}]}}`).want(t, 201)
	s.do(t, "PATCH", podsPath+"/web/status", `{"status":{"podIP":"192.0.2.7","podIPs":[{"ip":"192.0.2.7"},{"ip":"2001:db8::7"}]}}`, merge...).want(t, 200)
	s.createService(t, "front", `"ipFamilyPolicy":"PreferDualStack"`)
	for family, ip := range map[string]string{"IPv4": "192.0.2.7", "IPv6": "2001:db8::7"} {
		s.do(t, "POST", slicesPath, `{"metadata":{"name":"front-`+strings.ToLower(family)+`","labels":{"kubernetes.io/service-name":"front"}},"addressType":"`+family+`",
			"endpoints":[{"addresses":["`+ip+`"],"targetRef":{"kind":"Pod","namespace":"default","name":"web"}}],"ports":[{"name":"http","port":8080}]}`).want(t, 201)
	}
	for range 20 {
		if to, err := s.serviceTarget("default", "front", "http"); err != nil || to.host != "192.0.2.7:8080" {
			t.Fatalf("the Service is reached at %s, error %v; want 192.0.2.7:8080", to.host, err)
		}
	}
	s.do(t, "DELETE", slicesPath+"/front-ipv4", "").want(t, 200)
	if to, err := s.serviceTarget("default", "front", "http"); err != nil || to.host != "[2001:db8::7]:8080" {
		t.Errorf("without IPv4 the Service is reached at %s, error %v; want [2001:db8::7]:8080", to.host, err)
	}
}
