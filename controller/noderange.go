package controller

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skiff/reconcile"
)

// A node's ranges have these prefix lengths, Kubernetes' own: 254 pods, more than a node is meant to run, and what a link has by IPv6.
const (
	nodeBitsIPv4 = 24
	nodeBitsIPv6 = 64
)

// nodeRanges gives each node a part of each of the cluster's ranges for the addresses of its pods.
type nodeRanges struct {
	client  kubernetes.Interface
	lister  corelisters.NodeLister
	cluster []netip.Prefix          // One, or one of each family; the first is that of spec.podCIDR.
	given   map[netip.Prefix]string // What the cache may not show yet, by node. One worker, so no lock.
}

func newNodeRanges(b *base, cluster []netip.Prefix) error {
	if len(cluster) == 0 {
		return nil
	}
	for _, p := range cluster {
		if _, err := nodeRange(p, 0); err != nil {
			return err
		}
	}
	informer := b.factory.Core().V1().Nodes()
	c := &nodeRanges{client: b.client, lister: informer.Lister(), cluster: cluster, given: map[netip.Prefix]string{}}
	return b.watch(b.loop("noderange", 1, c.Reconcile), informer.Informer(), reconcile.ObjectKey)
}

// Reconcile gives one node its ranges if it has none. They are free again when the node is deleted.
func (c *nodeRanges) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.lister.Get(name)
	if apierrors.IsNotFound(err) {
		for prefix, holder := range c.given {
			if holder == name {
				delete(c.given, prefix)
			}
		}
		return 0, nil
	}
	if err != nil || node.Spec.PodCIDR != "" {
		return 0, err
	}
	all, err := c.lister.List(labels.Everything())
	if err != nil {
		return 0, fmt.Errorf("list the nodes: %w", err)
	}
	var ranges []string
	for _, cluster := range c.cluster {
		prefix, err := freeRange(cluster, all, c.given, name)
		if err != nil {
			return 0, fmt.Errorf("give node %s a pod range: %w", name, err)
		}
		c.given[prefix] = name
		ranges = append(ranges, prefix.String())
	}
	patch := mustJSON(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": ranges[0], "podCIDRs": ranges},
	})
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return 0, fmt.Errorf("give node %s the pod ranges %s: %w", name, strings.Join(ranges, " and "), err)
	}
	return 0, nil
}

// freeRange finds the lowest range of the cluster's that no node has; one that was given to the node before, in a try that failed, is it.
func freeRange(cluster netip.Prefix, nodes []*corev1.Node, given map[netip.Prefix]string, name string) (netip.Prefix, error) {
	taken := map[netip.Prefix]bool{}
	for prefix, holder := range given {
		if holder == name && cluster.Overlaps(prefix) {
			return prefix, nil
		}
		taken[prefix] = true
	}
	for _, node := range nodes {
		for _, text := range node.Spec.PodCIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				taken[prefix] = true
			}
		}
	}
	for i := 0; ; i++ {
		prefix, err := nodeRange(cluster, i)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("all %d ranges are taken: %w", i, err)
		}
		if !taken[prefix] {
			return prefix, nil
		}
	}
}

// nodeRange is the i-th of the ranges that a cluster's range is divided in, counted from 0.
func nodeRange(cluster netip.Prefix, i int) (netip.Prefix, error) {
	bits := nodeBitsIPv4
	if cluster.Addr().Is6() {
		bits = nodeBitsIPv6
	}
	if !cluster.IsValid() || cluster.Bits() > bits {
		return netip.Prefix{}, fmt.Errorf("cluster range %s: must be at least a /%d", cluster, bits)
	}
	if free := bits - cluster.Bits(); free < 31 && i >= 1<<free {
		return netip.Prefix{}, fmt.Errorf("cluster range %s has no /%d number %d", cluster, bits, i)
	}
	b := cluster.Masked().Addr().AsSlice()
	for at := bits/8 - 1; i > 0; at, i = at-1, i>>8 {
		b[at] |= byte(i) // The range is masked, so the bits of i are free in it.
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, bits), nil
}
