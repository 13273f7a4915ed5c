package proxy

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// BenchmarkEvent takes an endpoint from one of 10,000 Services and gives it back, by turns, from the API's watch event on: through the
// informer, the loop and the Ruleset until the kernel has said that it has it. 99 of a hundred take no longer than p99.
func BenchmarkEvent(b *testing.B) {
	requireRoot(b)
	w := oneFamily()
	all := w.benchServices()
	events := watch.NewFake()
	k := &timed{table: &table{config: w.config()}, committed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(b.Context())
	factory := factoryOf(all, events)
	p, err := newProxy(w.config(), factory, k)
	must(b, err)
	factory.Start(ctx.Done())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	b.Cleanup(func() { cancel(); must(b, <-done); factory.Shutdown(); must(b, Purge(w.config().Table)) })
	<-p.Synced()

	slice := all[77].slices[0]
	states := []*discoveryv1.EndpointSlice{withFewer(slice), slice}
	var took []time.Duration
	i := 0
	report := reportProcessor(b)
	for b.Loop() {
		start := time.Now()
		events.Modify(states[i%2])
		<-k.committed
		took = append(took, time.Since(start))
		i++
	}
	report()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// timed is a table that tells of each change that the kernel has taken.
type timed struct {
	*table
	committed chan struct{}
}

func (t *timed) commit(d diff) error {
	err := t.table.commit(d)
	t.committed <- struct{}{}
	return err
}

// factoryOf makes informers that know the Services, and hear of EndpointSlices from events.
func factoryOf(all []serviceState, events watch.Interface) informers.SharedInformerFactory {
	services, slices := &corev1.ServiceList{}, &discoveryv1.EndpointSliceList{}
	for _, s := range all {
		services.Items = append(services.Items, *s.svc)
		for _, slice := range s.slices {
			slices.Items = append(slices.Items, *slice)
		}
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	fixed := func(obj, list runtime.Object, events watch.Interface) {
		source := listOnce{&cache.ListWatch{
			ListWithContextFunc:  func(context.Context, metav1.ListOptions) (runtime.Object, error) { return list, nil },
			WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return events, nil },
		}}
		factory.InformerFor(obj, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(source, obj, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
	fixed(&corev1.Service{}, services, watch.NewFake())
	fixed(&discoveryv1.EndpointSlice{}, slices, events)
	return factory
}

// listOnce has its objects listed, not watched for from the beginning.
type listOnce struct{ *cache.ListWatch }

func (listOnce) IsWatchListSemanticsUnSupported() bool { return true }
