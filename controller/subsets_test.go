package controller

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestRepack promises one form for all ways to say the same.
func TestRepack(t *testing.T) {
	at := func(ips ...string) (all []corev1.EndpointAddress) {
		for _, ip := range ips {
			all = append(all, corev1.EndpointAddress{IP: ip})
		}
		return all
	}
	pod := func(uid types.UID) corev1.EndpointAddress {
		return corev1.EndpointAddress{IP: "10.0.0.1", TargetRef: &corev1.ObjectReference{UID: uid}}
	}
	ports := func(numbers ...int32) (all []corev1.EndpointPort) {
		for _, n := range numbers {
			all = append(all, corev1.EndpointPort{Name: fmt.Sprint("p", n), Port: n, AppProtocol: new(string)})
		}
		return all
	}
	type subsets = []corev1.EndpointSubset
	tests := []struct {
		name       string
		have, want subsets
	}{
		{"none", nil, nil},
		{"without addresses", subsets{{Ports: ports(80)}}, nil},
		{"without ports", subsets{{Addresses: at("b")}, {Addresses: at("a", "b")}}, subsets{{Addresses: at("a", "b")}}},
		{"the same ports", subsets{{Addresses: at("b"), Ports: ports(80)}, {Addresses: at("a"), Ports: ports(80)}},
			subsets{{Addresses: at("a", "b"), Ports: ports(80)}}},
		{"the same addresses", subsets{{Addresses: at("a"), Ports: ports(80)}, {Addresses: at("a"), Ports: ports(443)}},
			subsets{{Addresses: at("a"), Ports: ports(443, 80)}}},
		{"ports overlap", subsets{{Addresses: at("a"), Ports: ports(1, 2)}, {Addresses: at("b"), Ports: ports(2)}},
			subsets{{Addresses: at("a"), Ports: ports(1)}, {Addresses: at("a", "b"), Ports: ports(2)}}},
		{"ready and not", subsets{{Addresses: at("a", "b"), NotReadyAddresses: at("a"), Ports: ports(1)}, {Addresses: at("a"), Ports: ports(1)}},
			subsets{{Addresses: at("b"), NotReadyAddresses: at("a"), Ports: ports(1)}}},
		{"pods of one address", subsets{{Addresses: []corev1.EndpointAddress{pod("2"), pod("1"), pod("2")}}},
			subsets{{Addresses: []corev1.EndpointAddress{pod("1"), pod("2")}}}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for _, have := range []subsets{tc.have, tc.want} {
				if diff := cmp.Diff(tc.want, repack(have)); diff != "" {
					t.Errorf("from %v (-want +got):\n%s", have, diff)
				}
			}
		})
	}
}

// sizedSubsets makes subsets of so many ready and other addresses.
func sizedSubsets(counts ...[2]int) (subsets []corev1.EndpointSubset) {
	for _, n := range counts {
		subsets = append(subsets, corev1.EndpointSubset{
			Addresses: make([]corev1.EndpointAddress, n[0]), NotReadyAddresses: make([]corev1.EndpointAddress, n[1]),
		})
	}
	return subsets
}

// TestTruncate promises that those that are ready stay before others, in proportion to the subsets.
func TestTruncate(t *testing.T) {
	tests := []struct {
		name       string
		have, want [][2]int
		cut        bool
	}{
		{"just enough room", [][2]int{{400, 200}, {300, 100}}, [][2]int{{400, 200}, {300, 100}}, false},
		{"not ready are cut", [][2]int{{400, 200}, {400, 200}}, [][2]int{{400, 100}, {400, 100}}, true},
		{"ready are cut", [][2]int{{900, 50}, {600, 50}}, [][2]int{{600, 0}, {400, 0}}, true},
		{"the last gets less", [][2]int{{500, 0}, {500, 0}, {500, 0}}, [][2]int{{334, 0}, {334, 0}, {332, 0}}, true},
		{"nothing is left of one", [][2]int{{1200, 0}, {0, 1}}, [][2]int{{1000, 0}}, true},
		{"just the ready fit", [][2]int{{1000, 500}, {0, 10}}, [][2]int{{1000, 0}}, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			subsets, cut := truncate(sizedSubsets(tc.have...), 1000)
			var got [][2]int
			for _, s := range subsets {
				got = append(got, [2]int{len(s.Addresses), len(s.NotReadyAddresses)})
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || cut != tc.cut {
				t.Errorf("cut %v, want %v; addresses (-want +got):\n%s", cut, tc.cut, diff)
			}
		})
	}
}

// TestManyEndpoints promises that of more pods than an Endpoints object has room for it names the ready ones, and says so.
func TestManyEndpoints(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 1100 {
		words := fmt.Sprintf("pod-%04d ip=10.42.%d.%d", i, i/250, i%250+1)
		if i >= 100 {
			words += " ready=1h"
		}
		pods = append(pods, backend(words, 80))
	}
	got := endpointsOf(service(intstr.FromInt32(80)), pods)
	if len(got.Subsets) != 1 || len(got.Subsets[0].Addresses) != 1000 || len(got.Subsets[0].NotReadyAddresses) != 0 {
		t.Errorf("subsets %v, want one of the 1000 ready pods", got.Subsets)
	}
	if got.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("annotations %v, want truncated", got.Annotations)
	}
}
