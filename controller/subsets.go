package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// addressKey tells addresses apart: pods on the network of one node have the same IP.
type addressKey struct {
	ip     string
	target types.UID
}

func addressKeyOf(a corev1.EndpointAddress) addressKey {
	key := addressKey{ip: a.IP}
	if a.TargetRef != nil {
		key.target = a.TargetRef.UID
	}
	return key
}

func (k addressKey) compare(other addressKey) int {
	return cmp.Or(cmp.Compare(k.ip, other.ip), cmp.Compare(k.target, other.target))
}

// offer is the addresses, each ready or not, at which some ports are. Without ports it is of a Service that has none.
type offer struct {
	ports []corev1.EndpointPort
	ready map[addressKey]bool
}

// repack brings subsets into one form: at each port an address is named once, and ports that are at the same addresses are one subset.
// An address that is said to be both ready and not is not.
//
// Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoints-v1/ (subsets).
func repack(subsets []corev1.EndpointSubset) (packed []corev1.EndpointSubset) {
	known := map[addressKey]corev1.EndpointAddress{}
	byPort := map[string]*offer{}
	for _, s := range subsets {
		single := slices.Collect(slices.Chunk(s.Ports, 1))
		if len(single) == 0 {
			single = [][]corev1.EndpointPort{nil}
		}
		for _, port := range single {
			key := string(mustJSON(port))
			if byPort[key] == nil {
				byPort[key] = &offer{ports: port, ready: map[addressKey]bool{}}
			}
			byPort[key].add(s.Addresses, true, known)
			byPort[key].add(s.NotReadyAddresses, false, known)
		}
	}
	byAddresses := map[string]*offer{}
	var offers []*offer
	for _, port := range slices.Sorted(maps.Keys(byPort)) {
		o := byPort[port]
		at := o.addresses()
		if same := byAddresses[at]; same != nil {
			same.ports = append(same.ports, o.ports...)
		} else if at != "" {
			byAddresses[at] = o
			offers = append(offers, o)
		}
	}
	for _, o := range offers {
		packed = append(packed, o.subset(known))
	}
	return packed
}

func (o *offer) add(addresses []corev1.EndpointAddress, ready bool, known map[addressKey]corev1.EndpointAddress) {
	for _, a := range addresses {
		key := addressKeyOf(a)
		if _, there := known[key]; !there {
			known[key] = a
		}
		before, there := o.ready[key]
		o.ready[key] = ready && (before || !there)
	}
}

func (o *offer) sorted() []addressKey {
	return slices.SortedFunc(maps.Keys(o.ready), addressKey.compare)
}

// addresses is a text that is the same for the same addresses.
func (o *offer) addresses() string {
	var text strings.Builder
	for _, key := range o.sorted() {
		fmt.Fprintln(&text, key.ip, key.target, o.ready[key])
	}
	return text.String()
}

func (o *offer) subset(known map[addressKey]corev1.EndpointAddress) corev1.EndpointSubset {
	subset := corev1.EndpointSubset{Ports: o.ports}
	for _, key := range o.sorted() {
		if o.ready[key] {
			subset.Addresses = append(subset.Addresses, known[key])
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, known[key])
		}
	}
	return subset
}

// truncate cuts the addresses of all subsets to limit, and says whether it had to. Those that are ready are kept before others, and
// of either kind each subset keeps its share. What is not kept at all is no subset any more.
//
// Source: https://kubernetes.io/docs/concepts/services-networking/service/#over-capacity-endpoints.
func truncate(subsets []corev1.EndpointSubset, limit int) (kept []corev1.EndpointSubset, cut bool) {
	var ready, notReady []int
	for _, s := range subsets {
		ready, notReady = append(ready, len(s.Addresses)), append(notReady, len(s.NotReadyAddresses))
	}
	if total(ready)+total(notReady) <= limit {
		return subsets, false
	}
	ready = shares(ready, limit)
	notReady = shares(notReady, limit-total(ready))
	for i, s := range subsets {
		s.Addresses, s.NotReadyAddresses = s.Addresses[:ready[i]], s.NotReadyAddresses[:notReady[i]]
		if ready[i]+notReady[i] > 0 {
			kept = append(kept, s)
		}
	}
	return kept, true
}

// shares gives each a part of the room in proportion to what it wants. Parts are rounded up, so that it is the last ones that may
// get less.
func shares(wants []int, room int) []int {
	all, left := total(wants), room
	if all <= room {
		return wants
	}
	parts := make([]int, len(wants))
	for i, want := range wants {
		parts[i] = min((want*room+all-1)/all, left)
		left -= parts[i]
	}
	return parts
}

func total(counts []int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
