package controller

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkDeployments scales 100 Deployments from nothing to 50 pods each, and tells how long it takes until all are there, and until
// all are available, on a real API server and store, with an agent that finds every pod ready at once.
func BenchmarkDeployments(b *testing.B) {
	const deployments, size = 100, 50
	b.Setenv("KUBE_CACHE_MUTATION_DETECTOR", "false") // It keeps a copy of everything.
	for range b.N {
		c := startCluster(b)
		c.runKubelets(8)
		api := c.client.AppsV1().Deployments("default")
		for i := range deployments {
			d := web(0)
			d.Name = fmt.Sprintf("web-%d", i)
			d.Spec.Selector, d.Spec.Template.Labels = selecting(map[string]string{"app": d.Name}), map[string]string{"app": d.Name}
			_, err := api.Create(c.ctx, d, metav1.CreateOptions{})
			c.must(err)
		}
		before, cpu := heap(), processorTime(b)
		start := time.Now()
		for i := range deployments {
			_, err := api.Patch(c.ctx, fmt.Sprintf("web-%d", i), "application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, size), metav1.PatchOptions{})
			c.must(err)
		}
		until(b, func() bool {
			pods, err := c.client.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{Limit: 1})
			c.must(err)
			left := int64(0)
			if pods.RemainingItemCount != nil {
				left = *pods.RemainingItemCount
			}
			return left+int64(len(pods.Items)) == deployments*size
		})
		created := time.Since(start)
		until(b, func() bool {
			list, err := api.List(c.ctx, metav1.ListOptions{})
			c.must(err)
			for _, d := range list.Items {
				if d.Status.AvailableReplicas != size {
					return false
				}
			}
			return true
		})
		b.ReportMetric(created.Seconds(), "s-to-5000-pods")
		b.ReportMetric((processorTime(b) - cpu).Seconds(), "s-processor") // Of all: API server, controllers, kubelets.
		b.ReportMetric(time.Since(start).Seconds(), "s-to-available")
		b.ReportMetric(float64(heap()-before)/1e6, "MB-more")
	}
	b.ReportMetric(0, "ns/op")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func until(b *testing.B, true func() bool) {
	b.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !true(); {
		if time.Now().After(deadline) {
			b.Fatal("not within 5 minutes")
		}
		<-time.After(50 * time.Millisecond)
	}
}
