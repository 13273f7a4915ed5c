package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"skiff/api/stats"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// What nodes and pods use is asked of the nodes' agents, all at a time, whenever somebody asks the API. A node that does not
// answer is left out, as metrics-server leaves it out.

const (
	summaryTime  = 10 * time.Second // To measure takes an agent about one.
	summaryBytes = 16 << 20
	summaryAsked = 32 // So many nodes at a time.
)

// summaries asks nodes what they use.
func (s *Server) summaries(ctx context.Context, nodes []string) []*stats.Summary {
	ctx, cancel := context.WithTimeout(ctx, summaryTime)
	defer cancel()
	var mu sync.Mutex
	var all []*stats.Summary
	var asking errgroup.Group
	asking.SetLimit(summaryAsked)
	for _, node := range nodes {
		asking.Go(func() error {
			var summary *stats.Summary
			err := recovered("ask a node what it uses", func() (err error) {
				summary, err = s.summary(ctx, node)
				return err
			})
			if err != nil {
				slog.Debug("a node does not tell what it uses", "node", node, "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, summary)
			return nil
		})
	}
	_ = asking.Wait() // None returns an error.
	return all
}

func (s *Server) summary(ctx context.Context, node string) (*stats.Summary, error) {
	host, err := s.nodeAddress(node)
	if err != nil {
		return nil, err
	}
	to := url.URL{Scheme: "https", Host: host, Path: "/stats/summary", RawQuery: "only_cpu_and_memory=true"}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.config.NodeTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nodeRefused(resp)
	}
	var summary stats.Summary
	if err := json.NewDecoder(io.LimitReader(resp.Body, summaryBytes)).Decode(&summary); err != nil {
		return nil, fmt.Errorf("read what node %s uses: %w", node, err)
	}
	summary.Node.Name = node // Whatever it calls itself: it speaks for no other.
	return &summary, nil
}

// all are the objects of a kind.
func (s *Server) all(groupResource string) []*item {
	return s.shelf(groupResource).state(s.cache).items(selection{labels: labels.Everything(), fields: fields.Everything()})
}

// nodeUsage is what the nodes use; one, if it is named.
func (s *Server) nodeUsage(ctx context.Context, _, name string) []*item {
	var names []string
	for _, it := range s.all("nodes") {
		if name == "" || it.key == name {
			names = append(names, it.key)
		}
	}
	var items []*item
	for _, summary := range s.summaries(ctx, names) {
		node := s.shelf("nodes").get(summary.Node.Name)
		usage, at, window, ok := usageOf(summary.Node.CPU, summary.Node.Memory)
		if node == nil || !ok {
			continue
		}
		m := &metricsv1beta1.NodeMetrics{ObjectMeta: measuredMeta(node), Timestamp: at, Window: window, Usage: usage}
		m.SetGroupVersionKind(metricsv1beta1.SchemeGroupVersion.WithKind("NodeMetrics"))
		items = append(items, &item{key: node.key, obj: m})
	}
	return sortedItems(items)
}

// podUsage is what the pods of a namespace use, or of all; one pod, if it is named.
func (s *Server) podUsage(ctx context.Context, namespace, name string) []*item {
	wanted, nodes := map[string]*item{}, map[string]bool{}
	for _, it := range s.all("pods") {
		node := nodeNameOf(it)
		if node == "" || namespace != "" && it.meta().GetNamespace() != namespace || name != "" && it.meta().GetName() != name {
			continue
		}
		wanted[it.key] = it
		nodes[node] = true
	}
	var items []*item
	for _, summary := range s.summaries(ctx, slices.Collect(maps.Keys(nodes))) {
		for i := range summary.Pods {
			p := &summary.Pods[i]
			it := wanted[objectKey(p.Ref.Namespace, p.Ref.Name)]
			if it == nil || nodeNameOf(it) != summary.Node.Name {
				continue // A node speaks of its own pods only.
			}
			if m := podMetricsOf(p, it); m != nil {
				items = append(items, &item{key: it.key, obj: m})
			}
		}
	}
	return sortedItems(items)
}

// podMetricsOf is what a pod uses; nil where that of one of its containers is not known.
func podMetricsOf(p *stats.Pod, it *item) *metricsv1beta1.PodMetrics {
	m := &metricsv1beta1.PodMetrics{ObjectMeta: measuredMeta(it)}
	for i := range p.Containers {
		c := &p.Containers[i]
		usage, at, window, ok := usageOf(c.CPU, c.Memory)
		if !ok {
			return nil
		}
		if i == 0 || window.Duration < m.Window.Duration {
			m.Timestamp, m.Window = at, window
		}
		m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: usage})
	}
	if len(m.Containers) == 0 {
		return nil
	}
	slices.SortFunc(m.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return cmp.Compare(a.Name, b.Name) })
	m.SetGroupVersionKind(metricsv1beta1.SchemeGroupVersion.WithKind("PodMetrics"))
	return m
}

// usageOf is what was measured, in the API's quantities.
func usageOf(cpu *stats.CPU, memory *stats.Memory) (usage corev1.ResourceList, at metav1.Time, window metav1.Duration, ok bool) {
	if cpu == nil || cpu.NanoCores == nil || memory == nil || memory.WorkingSet == nil {
		return nil, at, window, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *quantity.NewScaledQuantity(int64(*cpu.NanoCores), quantity.Nano),
		corev1.ResourceMemory: *quantity.NewQuantity(int64(*memory.WorkingSet), quantity.BinarySI),
	}, cpu.Time, cpu.Window, true
}

// measuredMeta names what was measured.
func measuredMeta(it *item) metav1.ObjectMeta {
	m := it.meta()
	return metav1.ObjectMeta{Name: m.GetName(), Namespace: m.GetNamespace(), Labels: m.GetLabels(), CreationTimestamp: metav1.Now().Rfc3339Copy()}
}

func sortedItems(items []*item) []*item {
	slices.SortFunc(items, func(a, b *item) int { return cmp.Compare(a.key, b.key) })
	return items
}
