package handover

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// world is an API and a Handover that watches it, in a synctest bubble.
type world struct {
	*testing.T
	client   *fake.Clientset
	factory  informers.SharedInformerFactory
	progress *Progress
	handover *Handover
}

func inWorld(t *testing.T, test func(w *world), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &world{T: t, client: fake.NewClientset(objects...), progress: NewProgress("a")}
		w.factory = informers.NewSharedInformerFactory(w.client, 0)
		var err error
		w.handover, err = New(ctx, w.factory, w.progress)
		w.must(err)
		w.factory.Core().V1().Nodes().Informer()
		w.factory.Start(ctx.Done())
		w.factory.WaitForCacheSync(ctx.Done())
		synctest.Wait()
		defer func() { cancel(); w.factory.Shutdown(); synctest.Wait() }()
		test(w)
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// web is a pod with an address that Services select by app=web.
func web() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web", Labels: map[string]string{"app": "web", "tier": "front"}},
		Status:     corev1.PodStatus{PodIP: "10.42.0.2"},
	}
}

// service parses "name key=value".
func service(text string) *corev1.Service {
	name, selector, _ := strings.Cut(text, " ")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if key, value, ok := strings.Cut(selector, "="); ok {
		s.Spec.Selector = map[string]string{key: value}
	}
	return s
}

func ofFamily(s *corev1.Service, families ...corev1.IPFamily) *corev1.Service {
	s.Spec.IPFamilies = families
	return s
}

// slice parses "service revision pod state": one EndpointSlice with one endpoint.
func slice(text string) *discoveryv1.EndpointSlice {
	words := strings.Fields(text)
	ready, terminating := words[3] == "ready", words[3] == "terminating"
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: words[0] + "-1", ResourceVersion: words[1],
			Labels: map[string]string{discoveryv1.LabelServiceName: words[0]}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.42.0.2"}, TargetRef: &corev1.ObjectReference{UID: types.UID("uid-" + words[2])},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating},
		}},
	}
}

// lease is that of a node whose proxy has come to a revision; "" for one that does not tell.
func lease(node, revision string, renewed time.Time) *coordinationv1.Lease {
	seconds := int32(40)
	l := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}, LeaseDurationSeconds: &seconds},
	}
	if revision != "" {
		l.Annotations = map[string]string{annotationRevision: revision}
	}
	return l
}

// TestAnswers holds the answers to what Services, slices and proxies say.
func TestAnswers(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // When a bubble begins.
	for _, tc := range []struct {
		name     string
		objects  []runtime.Object
		progress uint64
		leaving  string
		arriving string
	}{
		{"no Service", nil, 0, "", ""},
		{"a Service of others", []runtime.Object{service("db app=db")}, 0, "", ""},
		{"a Service without selector", []runtime.Object{service("db")}, 0, "", ""},
		{"a Service whose slices are still to be made", []runtime.Object{service("web app=web")}, 9,
			"an EndpointSlice of Service default/web", "an EndpointSlice of Service default/web"},
		{"ready, not taken", []runtime.Object{service("web app=web"), slice("web 7 web ready")}, 6,
			"an EndpointSlice of Service default/web", "the proxy of this node"},
		{"ready, taken", []runtime.Object{service("web app=web"), slice("web 7 web ready")}, 7,
			"an EndpointSlice of Service default/web", ""},
		{"terminating, not taken", []runtime.Object{service("web app=web"), slice("web 7 web terminating")}, 6,
			"the proxy of this node", "the proxy of this node"},
		{"terminating, taken", []runtime.Object{service("web app=web"), slice("web 7 web terminating")}, 8, "", ""},
		{"not ready", []runtime.Object{service("web app=web"), slice("web 7 web not-ready")}, 8,
			"an EndpointSlice of Service default/web", "an EndpointSlice of Service default/web"},
		{"the endpoint of another pod", []runtime.Object{service("web app=web"), slice("web 7 old terminating")}, 8,
			"an EndpointSlice of Service default/web", "an EndpointSlice of Service default/web"},
		{"of two Services one lags behind", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), service("front tier=front"), slice("front 5 web ready")}, 8,
			"an EndpointSlice of Service default/front", ""},
		{"another node lags behind", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), lease("b", "6", now)}, 8,
			"the proxy of node b", "the proxy of node b"},
		{"another node has it", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), lease("b", "7", now)}, 8, "", ""},
		{"another node does not tell", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), lease("b", "", now)}, 8, "", ""},
		{"another node is silent", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), lease("b", "6", now.Add(-time.Minute))}, 8, "", ""},
		{"the proxy here has not begun", []runtime.Object{service("web app=web"), slice("web 7 web terminating")}, 0,
			"the proxy of this node", "the proxy of this node"},
		{"a Service that selects others now", []runtime.Object{service("web app=green"), slice("web 7 web ready")}, 8,
			"an EndpointSlice of Service default/web", ""},
		{"a Service that selects others now, terminating", []runtime.Object{service("web app=green"), slice("web 7 web terminating")}, 6,
			"the proxy of this node", ""},
		{"a Service of the other address family", []runtime.Object{ofFamily(service("web app=web"), corev1.IPv6Protocol)}, 0, "", ""},
		{"a Service of both address families", []runtime.Object{ofFamily(service("web app=web"), corev1.IPv6Protocol, corev1.IPv4Protocol)}, 0,
			"an EndpointSlice of Service default/web", "an EndpointSlice of Service default/web"},
		{"what this node told others does not count", []runtime.Object{service("web app=web"), slice("web 7 web terminating"), lease("a", "6", now)}, 8, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if tc.progress > 0 {
					w.progress.Took(tc.progress)
				}
				if got := w.handover.Leaving(web(), func() {}); got != tc.leaving {
					t.Errorf("leaving: %q, want %q", got, tc.leaving)
				}
				if got := w.handover.Arriving(web(), func() {}); got != tc.arriving {
					t.Errorf("arriving: %q, want %q", got, tc.arriving)
				}
			}, tc.objects...)
		})
	}
}

// TestCallsBack promises one call when the answer has become "nothing", whatever it was that changed last.
func TestCallsBack(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	objects := []runtime.Object{service("web app=web"), slice("web 5 web ready"), lease("b", "5", now)}
	slices := func(w *world) {
		_, err := w.client.DiscoveryV1().EndpointSlices("default").Update(w.Context(), slice("web 7 web terminating"), metav1.UpdateOptions{})
		w.must(err)
	}
	own := func(w *world) { w.progress.Took(7) }
	other := func(w *world) {
		_, err := w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(w.Context(), lease("b", "8", now), metav1.UpdateOptions{})
		w.must(err)
	}
	gone := func(w *world) {
		w.must(w.client.CoreV1().Services("default").Delete(w.Context(), "web", metav1.DeleteOptions{}))
	}
	for _, tc := range []struct {
		name  string
		steps []func(*world)
	}{
		{"slices, own proxy, other proxy", []func(*world){slices, own, other}},
		{"slices, other proxy, own proxy", []func(*world){slices, other, own}},
		{"proxies before the slices are seen here", []func(*world){own, other, slices}},
		{"the Service goes", []func(*world){own, gone}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.progress.Took(5)
				var calls atomic.Int64
				if why := w.handover.Leaving(web(), func() { calls.Add(1) }); why == "" {
					t.Fatal("nothing has happened, and the pod is left")
				}
				for i, step := range tc.steps {
					if n := calls.Load(); n != 0 {
						t.Errorf("%d calls after %d of %d steps", n, i, len(tc.steps))
					}
					step(w)
					synctest.Wait()
				}
				w.progress.Took(9)
				if n := calls.Load(); n != 1 {
					t.Errorf("%d calls after all steps, want 1", n)
				}
				if why := w.handover.Leaving(web(), func() {}); why != "" {
					t.Errorf("after all steps %s still has the pod", why)
				}
			}, objects...)
		})
	}
}

// TestFamilies promises that a pod with two addresses has come when the slices of both have it.
func TestFamilies(t *testing.T) {
	pod := web()
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.42.0.2"}, {IP: "fd42::2"}}
	inWorld(t, func(w *world) {
		w.progress.Took(9)
		if got := w.handover.Arriving(pod, func() {}); got != "an EndpointSlice of Service default/web" {
			t.Errorf("with a slice of one family: %q", got)
		}
		second := slice("web 8 web ready")
		second.Name, second.AddressType = "web-2", discoveryv1.AddressTypeIPv6
		_, err := w.client.DiscoveryV1().EndpointSlices("default").Create(w.Context(), second, metav1.CreateOptions{})
		w.must(err)
		synctest.Wait()
		if got := w.handover.Arriving(pod, func() {}); got != "" {
			t.Errorf("with slices of both families: %q", got)
		}
	}, ofFamily(service("web app=web"), corev1.IPv4Protocol, corev1.IPv6Protocol), slice("web 7 web ready"))
}

// TestSince promises that what counts is the revision that showed an endpoint as it is wanted first, not what happened to others in
// its slice afterwards; and that an endpoint which a slice loses is waited for like one that terminates.
func TestSince(t *testing.T) {
	const behind = "the proxy of this node"
	for _, tc := range []struct {
		name              string
		slices            []string // One after the other.
		progress          uint64
		leaving, arriving string
	}{
		{"terminating", []string{"web 5 web ready", "web 7 web terminating", "web 9 web terminating"}, 7, "", ""},
		{"ready", []string{"web 5 web not-ready", "web 7 web ready", "web 9 web ready"}, 7, "an EndpointSlice of Service default/web", ""},
		{"ready, not ready, ready", []string{"web 5 web ready", "web 7 web not-ready", "web 9 web ready"}, 7, "an EndpointSlice of Service default/web", behind},
		{"gone from the slice", []string{"web 5 web ready", "web 7 other ready"}, 6, behind, ""},
		{"gone from the slice, taken", []string{"web 5 web ready", "web 7 other ready"}, 7, "", ""},
		{"gone from the slice when it was terminating", []string{"web 5 web terminating", "web 7 other ready"}, 5, "", ""},
		{"gone with the slice", []string{"web 5 web ready", ""}, 4, behind, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			selector := "web app=web"
			if strings.HasPrefix(tc.name, "gone") {
				selector = "web app=green"
			}
			inWorld(t, func(w *world) {
				for _, text := range tc.slices[1:] {
					api := w.client.DiscoveryV1().EndpointSlices("default")
					if text == "" {
						w.must(api.Delete(w.Context(), "web-1", metav1.DeleteOptions{}))
					} else {
						_, err := api.Update(w.Context(), slice(text), metav1.UpdateOptions{})
						w.must(err)
					}
					synctest.Wait()
				}
				w.progress.Took(tc.progress)
				if got := w.handover.Leaving(web(), func() {}); got != tc.leaving {
					t.Errorf("leaving: %q, want %q", got, tc.leaving)
				}
				if got := w.handover.Arriving(web(), func() {}); got != tc.arriving {
					t.Errorf("arriving: %q, want %q", got, tc.arriving)
				}
			}, service(selector), slice(tc.slices[0]))
		})
	}
}

// TestDeparturesAreForgotten promises that the memory of pods that slices have lost is bounded.
func TestDeparturesAreForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		update := func(text string) {
			_, err := w.client.DiscoveryV1().EndpointSlices("default").Update(w.Context(), slice(text), metav1.UpdateOptions{})
			w.must(err)
			synctest.Wait()
		}
		update("web 7 other ready")
		time.Sleep(2 * forgetAfter)
		update("web 9 third ready")
		if n := len(w.handover.places.left); n != 1 {
			t.Errorf("%d departures are known, want the last one", n)
		}
		if n := len(w.handover.places.of); n != 1 {
			t.Errorf("%d pods are known, want the one that is there", n)
		}
	}, service("web app=web"), slice("web 5 web ready"))
}

// TestPublish promises that a node that is alone makes no request, and that another one is told soon, by few requests.
func TestPublish(t *testing.T) {
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	inWorld(t, func(w *world) {
		ctx, stop := context.WithCancel(w.Context())
		ended := make(chan error)
		go func() { ended <- Publish(ctx, w.client, w.progress, w.factory.Core().V1().Nodes().Informer()) }()
		patches := func() (n int) {
			for _, a := range w.client.Actions() {
				if a.GetVerb() == "patch" {
					n++
				}
			}
			return n
		}
		told := func() string {
			l, err := w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, "a", metav1.GetOptions{})
			w.must(err)
			return l.Annotations[annotationRevision]
		}
		for i := range uint64(100) {
			w.progress.Took(i + 1)
		}
		time.Sleep(time.Minute)
		if n := patches(); n != 0 {
			t.Errorf("a node that is alone made %d requests", n)
		}
		_, err := w.client.CoreV1().Nodes().Create(ctx, node("b"), metav1.CreateOptions{})
		w.must(err)
		time.Sleep(time.Second)
		if got := told(); got != "100" {
			t.Errorf("when another node came, it was told of revision %q, want 100", got)
		}
		before := patches()
		for i := range uint64(100) {
			w.progress.Took(i + 101)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := told(); got != "200" {
			t.Errorf("it was told of revision %q, want 200", got)
		}
		if n := patches() - before; n > 5 {
			t.Errorf("100 changes in 100 ms took %d requests, want at most 5", n)
		}
		w.must(w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, "a", metav1.DeleteOptions{}))
		w.progress.Took(201)
		time.Sleep(time.Second)
		_, err = w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease("a", "", time.Now()), metav1.CreateOptions{})
		w.must(err)
		time.Sleep(time.Minute)
		if got := told(); got != "201" {
			t.Errorf("when its Lease is there, a node tells of revision %q, want 201", got)
		}
		stop()
		w.must(<-ended)
	}, node("a"), lease("a", "", time.Now()))
}
