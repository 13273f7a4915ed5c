package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// A Service has the families of its policy, of its addresses or of the cluster, and changes them only when it is told to.
func TestServiceFamilies(t *testing.T) {
	const (
		single = "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack"
		dual   = "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 'fd43::7'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack"
		prefer = "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack"
		anyIPs = "selector: {}, clusterIP: None"
	)
	for _, tc := range []struct {
		name, cluster, old, given string
		want                      string // Policy, families and addresses; or the errors, one a line.
	}{
		{"new", "IPv4", "", "", "SingleStack IPv4"},
		{"new, in the other family", "IPv6", "", "", "SingleStack IPv6"},
		{"new, where there are both", "IPv4 IPv6", "", "", "SingleStack IPv4"},
		{"new, where IPv6 is first", "IPv6 IPv4", "", "", "SingleStack IPv6"},
		{"asks for a family", "IPv4 IPv6", "", "ipFamilies: [IPv6]", "SingleStack IPv6"},
		{"asks for an address", "IPv4 IPv6", "", "clusterIP: 'fd43::7'", "SingleStack IPv6 fd43::7"},
		{"prefers both", "IPv4 IPv6", "", "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4,IPv6"},
		{"prefers both, in an order", "IPv4 IPv6", "", "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]", "PreferDualStack IPv6,IPv4"},
		{"prefers both, where there is one", "IPv4", "", "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4"},
		{"requires both", "IPv4 IPv6", "", "ipFamilyPolicy: RequireDualStack", "RequireDualStack IPv4,IPv6"},
		{"requires both by two addresses", "IPv4 IPv6", "", "ipFamilyPolicy: RequireDualStack, clusterIP: 'fd43::7', clusterIPs: ['fd43::7', 10.43.0.7]", "RequireDualStack IPv6,IPv4 fd43::7,10.43.0.7"},
		{"requires both, where there is one", "IPv4", "", "ipFamilyPolicy: RequireDualStack",
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"asks for a family that is not there", "IPv4", "", "ipFamilies: [IPv6]", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"asks for an address that is not there", "IPv4", "", "clusterIP: 'fd43::7'", `spec.clusterIPs[0]: Invalid value: ["fd43::7"]: IPv6 is not configured on this cluster`},
		{"two families without a policy", "IPv4 IPv6", "", "ipFamilies: [IPv4, IPv6]",
			`spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`},
		{"two addresses without a policy", "IPv4 IPv6", "", "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 'fd43::7']",
			`spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified`},
		{"an address of another family", "IPv4 IPv6", "", "ipFamilies: [IPv6], clusterIP: 10.43.0.7",
			"spec.clusterIPs[0]: Invalid value: \"10.43.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		{"two addresses of one family", "IPv4 IPv6", "", "ipFamilyPolicy: PreferDualStack, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 10.43.0.8]",
			`spec.clusterIPs: Invalid value: ["10.43.0.7","10.43.0.8"]: may specify no more than one IP for each IP family`},
		{"addresses without the first", "IPv4", "", "clusterIPs: [10.43.0.7]", "spec.clusterIPs: Invalid value: [\"10.43.0.7\"]: must be empty when `clusterIP` is not specified"},
		{"families that are none", "IPv4", "", "ipFamilies: [IPv4, IPv4, IPX], ipFamilyPolicy: Both",
			`spec.ipFamilies[1]: Duplicate value: "IPv4"
spec.ipFamilies[2]: Unsupported value: "IPX": supported values: "IPv4", "IPv6"
spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`},

		{"headless", "IPv4 IPv6", "", "clusterIP: None", "SingleStack IPv4 None"},
		{"headless, prefers both", "IPv6 IPv4", "", "clusterIP: None, ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv6,IPv4 None"},
		{"headless without selector", "IPv4", "", anyIPs, "RequireDualStack IPv4,IPv6 None"},
		{"headless without selector, of a family that is not there", "IPv4", "", anyIPs + ", ipFamilies: [IPv6]", "RequireDualStack IPv6,IPv4 None"},
		{"headless without selector, single", "IPv4", "", anyIPs + ", ipFamilyPolicy: SingleStack", "SingleStack IPv4 None"},
		{"headless changes its families", "IPv4 IPv6", "clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack", "clusterIP: None, ipFamilies: [IPv6]", "SingleStack IPv6 None"},
		{"external name", "IPv4", "", "type: ExternalName, externalName: a.b", ""},

		{"the same again", "IPv4 IPv6", dual, "", "RequireDualStack IPv4,IPv6 10.43.0.7,fd43::7"},
		{"upgraded by policy", "IPv4 IPv6", single, "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4,IPv6 10.43.0.7"},
		{"upgraded by policy, where there is one", "IPv4", single, "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4 10.43.0.7"},
		{"upgraded with an address", "IPv4 IPv6", single, "ipFamilyPolicy: RequireDualStack, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 'fd43::8']", "RequireDualStack IPv4,IPv6 10.43.0.7,fd43::8"},
		{"the cluster got a second family", "IPv4 IPv6", prefer, prefer, "PreferDualStack IPv4 10.43.0.7"},
		{"and it is wanted now", "IPv4 IPv6", prefer, prefer[:len(prefer)-len("PreferDualStack")] + "RequireDualStack", "RequireDualStack IPv4,IPv6 10.43.0.7"},
		{"downgraded by policy", "IPv4 IPv6", dual, "ipFamilyPolicy: SingleStack", "SingleStack IPv4 10.43.0.7"},
		{"downgraded by policy in the whole object", "IPv4 IPv6", dual, dual[:len(dual)-len("RequireDualStack")] + "SingleStack", "SingleStack IPv4 10.43.0.7"},
		{"downgraded without a policy", "IPv4 IPv6", dual, "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4]",
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary cluster IP
spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary IP family`},
		{"another first address", "IPv4 IPv6", dual, "clusterIP: 10.43.0.8, clusterIPs: [10.43.0.8, 'fd43::7']",
			`spec.clusterIPs[0]: Invalid value: ["10.43.0.8","fd43::7"]: may not change once set`},
		{"another second address", "IPv4 IPv6", dual, "clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 'fd43::8']",
			`spec.clusterIPs[1]: Invalid value: ["10.43.0.7","fd43::8"]: may not change once set`},
		{"the other family", "IPv4 IPv6", single, "clusterIP: 'fd43::7', clusterIPs: ['fd43::7'], ipFamilies: [IPv6]",
			`spec.clusterIPs[0]: Invalid value: ["fd43::7"]: may not change once set
spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set`},
		{"to an external name", "IPv4 IPv6", dual, "type: ExternalName, externalName: a.b, " + dual, ""},
		{"from an external name", "IPv4 IPv6", "type: ExternalName, externalName: a.b", "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4,IPv6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := find(t, "Service")
			service := func(spec string) *corev1.Service {
				fields := "selector: {a: b}, ports: [{port: 80}]"
				if strings.HasPrefix(spec, anyIPs) {
					fields = "ports: [{port: 80}]"
				}
				return parse(t, r, "{metadata: {name: s}, spec: {"+fields+more(strings.TrimPrefix(spec, "selector: {}, "))+"}}").(*corev1.Service)
			}
			var old *corev1.Service
			s := service(tc.given)
			if tc.old == "" {
				r.PrepareCreate(s)
			} else {
				old = service(tc.old)
				r.PrepareUpdate(s, old)
			}
			var cluster []corev1.IPFamily
			for f := range strings.FieldsSeq(tc.cluster) {
				cluster = append(cluster, corev1.IPFamily(f))
			}
			errs := CompleteFamilies(s, old, cluster)
			if len(errs) == 0 && old != nil {
				errs = r.ValidateUpdate(s, old)
			}
			got := strings.Join(texts(errs), "\n")
			if len(errs) == 0 {
				got = families(s)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("cluster of %s, stored {%s}, given {%s}\n(-want +got):\n%s", tc.cluster, tc.old, tc.given, diff)
			}
		})
	}
}

// families are policy, families and addresses of a Service.
func families(s *corev1.Service) string {
	var all []string
	for _, f := range s.Spec.IPFamilies {
		all = append(all, string(f))
	}
	return strings.TrimSpace(fmt.Sprint(deref(s.Spec.IPFamilyPolicy), " ", strings.Join(all, ","), " ", strings.Join(s.Spec.ClusterIPs, ",")))
}
