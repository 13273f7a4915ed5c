package controller

import (
	corev1 "k8s.io/api/core/v1"
)

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
