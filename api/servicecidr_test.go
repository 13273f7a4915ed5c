package api

import "testing"

func TestAddressRanges(t *testing.T) {
	const twice = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
	checkErrors(t, []errorTest{
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24, 'fd00::/112']}}", nil},
		{"ServiceCIDR", "{}", []string{"spec.cidrs: Required value: at least one CIDR required"}},
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24, 10.1.0.0/24]}}", []string{`spec.cidrs: Invalid value: ["10.0.0.0/24","10.1.0.0/24"]: ` + twice}},
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24, 10.1.0.0/24, 'fd00::/112']}}", []string{
			`spec.cidrs: Invalid value: {"cidrs":["10.0.0.0/24","10.1.0.0/24","fd00::/112"]}: may only hold up to 2 values`}},
		{"ServiceCIDR", "{spec: {cidrs: ['FD00::/112']}}", []string{`spec.cidrs[0]: Invalid value: "FD00::/112": must be in canonical form ("fd00::/112")`}},
		{"IPAddress", "{spec: {parentRef: {resource: services, namespace: a, name: b}}}", nil},
		{"IPAddress", "{}", []string{"spec.parentRef: Required value"}},
		{"IPAddress", "{spec: {parentRef: {group: A, resource: a/b, namespace: '..'}}}", []string{
			`spec.parentRef.group: Invalid value: "A": ` + subdomain1123,
			`spec.parentRef.resource: Invalid value: "a/b": may not contain '/'`,
			"spec.parentRef.name: Required value",
			`spec.parentRef.namespace: Invalid value: "..": may not be '..'`,
		}},
		{"VolumeAttributesClass", "{driverName: a.b, parameters: {a: b}}", nil},
		{"VolumeAttributesClass", "{}", []string{"driverName: Required value", "parameters: Required value: must contain at least one key/value pair"}},
	})
	checkUpdates(t, []updateTest{
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24]}}", "{spec: {cidrs: [10.0.0.0/25]}}", []string{`spec.cidrs[0]: Invalid value: "10.0.0.0/25": field is immutable`}},
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24]}}", "{spec: {cidrs: [10.0.0.0/24, 'fd00::/112']}}", nil},
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24]}}", "{spec: {cidrs: ['fd00::/112', 10.0.0.0/24]}}", []string{`spec.cidrs[0]: Invalid value: "fd00::/112": field is immutable`}},
		{"ServiceCIDR", "{spec: {cidrs: [10.0.0.0/24, 'fd00::/112']}}", "{spec: {cidrs: [10.0.0.0/24]}}", []string{`spec.cidrs: Invalid value: ["10.0.0.0/24"]: field is immutable`}},
		{"IPAddress", "{spec: {parentRef: {name: a}}}", "{spec: {parentRef: {name: b}}}", []string{`spec.parentRef: Invalid value: {"name":"b"}: field is immutable`}},
		{"VolumeAttributesClass", "{driverName: a, parameters: {a: b}}", "{driverName: b, parameters: {a: c}}", []string{
			"driverName: Forbidden: updates to driverName are forbidden.", "parameters: Forbidden: updates to parameters are forbidden."}},
	})
	checkRows(t, []rowTest{
		{"ServiceCIDR", "{metadata: {name: r}, spec: {cidrs: [10.0.0.0/24, 'fd00::/112']}}", "r|10.0.0.0/24,fd00::/112|<unknown>"},
		{"IPAddress", "{metadata: {name: 10.0.0.1}, spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}}", "10.0.0.1|services/default/kubernetes"},
		{"IPAddress", "{metadata: {name: 10.0.0.1}, spec: {parentRef: {group: G.io, resource: gateways, name: g}}}", "10.0.0.1|gateways.g.io/g"},
		{"VolumeAttributesClass", "{metadata: {name: gold}, driverName: d}", "gold|d|<unknown>"},
		{"ComponentStatus", "{metadata: {name: etcd-0}, conditions: [{type: Healthy, status: 'True', message: ok}]}", "etcd-0|Healthy|ok|"},
		{"ComponentStatus", "{metadata: {name: etcd-0}, conditions: [{type: Healthy, status: 'False', error: broken}]}", "etcd-0|Unhealthy||broken"},
	})
}

// An address has one name.
func TestAddressNames(t *testing.T) {
	r := find(t, "IPAddress")
	for name, valid := range map[string]bool{"10.0.0.1": true, "fd00::1": true, "10.0.0.01": false, "FD00::1": false, "web": false, "": false} {
		if wrong := r.ValidateName(name, false); (len(wrong) == 0) != valid {
			t.Errorf("%q: %v", name, wrong)
		}
	}
}
