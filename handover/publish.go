package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	"k8s.io/client-go/tools/cache"
)

// annotationRevision is on a node's Lease: up to which revision its proxy has the EndpointSlices.
const annotationRevision = "skiff.dev/endpoints-revision"

// quiet is how long a proxy waits for more news before it tells what it has: a rollout changes many endpoints in a row, and
// one request tells of all. One that failed is tried again after pause.
const (
	quiet = 30 * time.Millisecond
	pause = 2 * time.Second
)

// Publish writes progress into the Lease of its node, for the other nodes, until ctx ends. While there are no others it makes
// no request.
func Publish(ctx context.Context, client kubernetes.Interface, progress *Progress, nodes cache.SharedIndexInformer) error {
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default: // Already known.
		}
	}
	progress.subscribe(ctx, tell)
	added, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { tell() }})
	if err != nil {
		return fmt.Errorf("watch for other nodes: %w", err)
	}
	defer func() { _ = nodes.RemoveEventHandler(added) }()
	for told := uint64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
		node, revision, _ := progress.at()
		if revision == told || len(nodes.GetIndexer().ListKeys()) < 2 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(quiet):
		}
		_, revision, _ = progress.at()
		if err := publish(ctx, client, node, revision); err != nil {
			slog.Debug("tell the other nodes of endpoints", "err", err)
			time.AfterFunc(pause, tell)
			continue
		}
		told = revision
	}
}

func publish(ctx context.Context, client kubernetes.Interface, node string, revision uint64) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{annotationRevision: strconv.FormatUint(revision, 10)},
	}})
	if err != nil {
		return err
	}
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err = leases.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotate the lease of node %s: %w", node, err)
	}
	return nil
}

// behindByLease names a proxy of another node that has not come to the revision yet. Nodes whose proxy does not tell, and
// nodes that have fallen silent, are not waited for.
func behindByLease(leases coordinationlisters.LeaseLister, own string, revision uint64, now time.Time) string {
	all, err := leases.Leases(corev1.NamespaceNodeLease).List(labels.Everything())
	if err != nil {
		return err.Error()
	}
	for _, lease := range all {
		text, tells := lease.Annotations[annotationRevision]
		if tells && lease.Name != own && Revision(text) < revision && alive(lease, now) {
			return "the proxy of node " + lease.Name
		}
	}
	return ""
}

func alive(lease *coordinationv1.Lease, now time.Time) bool {
	spec := &lease.Spec
	return spec.RenewTime != nil && spec.LeaseDurationSeconds != nil &&
		now.Before(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second))
}

// concernsProxies reports whether obj is a Lease in which a proxy's progress stands.
func concernsProxies(obj any) bool {
	lease, ok := obj.(*coordinationv1.Lease)
	if !ok {
		return true // One whose end was missed.
	}
	_, tells := lease.Annotations[annotationRevision]
	return tells && lease.Namespace == corev1.NamespaceNodeLease
}
