package controller

import (
	"context"
	"fmt"
	"net/netip"
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

// nodeRangeBits is the prefix length of a node's range: 254 pods, more than a node is meant to run.
const nodeRangeBits = 24

// nodeRanges gives each node a part of the cluster's range for the addresses of its pods.
type nodeRanges struct {
	client  kubernetes.Interface
	lister  corelisters.NodeLister
	cluster netip.Prefix
	given   map[netip.Prefix]string // What the cache may not show yet, by node. One worker, so no lock.
}

func newNodeRanges(b *base, cluster netip.Prefix) error {
	if !cluster.IsValid() {
		return nil
	}
	informer := b.factory.Core().V1().Nodes()
	c := &nodeRanges{client: b.client, lister: informer.Lister(), cluster: cluster, given: map[netip.Prefix]string{}}
	return b.watch(b.loop("noderange", 1, c.Reconcile), informer.Informer(), reconcile.ObjectKey)
}

// Reconcile gives one node a range if it has none. A range is free again when its node is deleted.
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
	prefix, err := freeRange(c.cluster, all, c.given, name)
	if err != nil {
		return 0, fmt.Errorf("give node %s a pod range: %w", name, err)
	}
	c.given[prefix] = name
	patch := mustJSON(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": prefix.String(), "podCIDRs": []string{prefix.String()}},
	})
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return 0, fmt.Errorf("give node %s the pod range %s: %w", name, prefix, err)
	}
	return 0, nil
}

// freeRange finds the lowest range that no node has; one that was given to the node before, in a try that failed, is it.
func freeRange(cluster netip.Prefix, nodes []*corev1.Node, given map[netip.Prefix]string, name string) (netip.Prefix, error) {
	taken := map[netip.Prefix]bool{}
	for prefix, holder := range given {
		if holder == name {
			return prefix, nil
		}
		taken[prefix] = true
	}
	for _, node := range nodes {
		if prefix, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil {
			taken[prefix] = true
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

// nodeRange is the i-th /24 of the cluster's IPv4 range, counted from 0.
func nodeRange(cluster netip.Prefix, i int) (netip.Prefix, error) {
	if !cluster.Addr().Is4() || cluster.Bits() > nodeRangeBits {
		return netip.Prefix{}, fmt.Errorf("cluster range %s: must be IPv4 and at least a /%d", cluster, nodeRangeBits)
	}
	if i >= 1<<(nodeRangeBits-cluster.Bits()) {
		return netip.Prefix{}, fmt.Errorf("cluster range %s has no /%d number %d", cluster, nodeRangeBits, i)
	}
	a := cluster.Masked().Addr().As4()
	n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(i)<<8
	// The addition above is an OR: the range is masked, so the bits of i are free in it.
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), 0}), nodeRangeBits), nil
}
