package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// handMade is Endpoints "web" with one subset of one port: addresses that are ready, and others after a "|".
func handMade(addresses string) *corev1.Endpoints {
	list := func(text string) (all []corev1.EndpointAddress) {
		for ip := range strings.FieldsSeq(text) {
			all = append(all, corev1.EndpointAddress{IP: ip})
		}
		return all
	}
	ready, notReady, _ := strings.Cut(addresses, "|")
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"team": "red"},
			Annotations: map[string]string{"note": "mine", corev1.LastAppliedConfigAnnotation: "{}"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: list(ready), NotReadyAddresses: list(notReady),
			Ports: []corev1.EndpointPort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}},
		}},
	}
}

func describeSlice(s *discoveryv1.EndpointSlice) string {
	var words []string
	for _, e := range s.Endpoints {
		word := e.Addresses[0]
		if !*e.Conditions.Ready {
			word += "(not ready)"
		}
		words = append(words, word)
	}
	return fmt.Sprintf("%s %s/%d/%s: %s", s.AddressType, *s.Ports[0].Name, *s.Ports[0].Port, *s.Ports[0].Protocol, strings.Join(words, " "))
}

// TestMirrorOf holds what becomes of the subsets of an Endpoints object.
func TestMirrorOf(t *testing.T) {
	many := handMade("")
	for i := range perSubset + 5 {
		many.Subsets[0].Addresses = append(many.Subsets[0].Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)})
	}
	twice := handMade("10.0.0.1")
	twice.Subsets = append(twice.Subsets, handMade("10.0.0.2").Subsets...)
	other := handMade("10.0.0.3").Subsets[0]
	other.Ports = []corev1.EndpointPort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
	twice.Subsets = append(twice.Subsets, other)
	for _, tc := range []struct {
		name          string
		endpoints     *corev1.Endpoints
		want          []string
		invalid, over int
	}{
		{"ready and not", handMade("10.0.0.2 10.0.0.1 | 10.0.0.3"), []string{"IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2 10.0.0.3(not ready)"}, 0, 0},
		{"both families", handMade("10.0.0.1 2001:db8::1"), []string{"IPv4 http/8080/TCP: 10.0.0.1", "IPv6 http/8080/TCP: 2001:db8::1"}, 0, 0},
		{"no address", handMade(""), nil, 0, 0},
		{"what is none", handMade("10.0.0.1 somewhere"), []string{"IPv4 http/8080/TCP: 10.0.0.1"}, 1, 0},
		{"both ready and not", handMade("10.0.0.1 10.0.0.2 | 10.0.0.1"), []string{"IPv4 http/8080/TCP: 10.0.0.1(not ready) 10.0.0.2"}, 0, 0},
		{"subsets with the same ports are one", twice, []string{"IPv4 dns/53/UDP: 10.0.0.3", "IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2"}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mirror, invalid, over := mirrorOf(tc.endpoints)
			var got []string
			for _, s := range mirror {
				got = append(got, describeSlice(s))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || invalid != tc.invalid || over != tc.over {
				t.Errorf("%d invalid, %d over; slices (-want +got):\n%s", invalid, over, diff)
			}
		})
	}
	halves := many.DeepCopy()
	halves.Subsets = append(halves.Subsets, *halves.Subsets[0].DeepCopy())
	halves.Subsets[0].Addresses = halves.Subsets[0].Addresses[:600]
	halves.Subsets[1].Addresses = halves.Subsets[1].Addresses[600:]
	for _, endpoints := range []*corev1.Endpoints{many, halves} {
		if mirror, _, over := mirrorOf(endpoints); len(mirror) != 1 || len(mirror[0].Endpoints) != perSubset || over != 5 {
			t.Errorf("of %d addresses in %d subsets %d are mirrored and %d told to be over", perSubset+5, len(endpoints.Subsets), len(mirror[0].Endpoints), over)
		}
	}
}

// TestMirroring promises that slices follow the Endpoints of a Service without selector, and only those.
func TestMirroring(t *testing.T) {
	inWorld(t, newMirrors, func(w *world) {
		endpoints := w.client.CoreV1().Endpoints("default")
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}}
		mirror := func() []discoveryv1.EndpointSlice {
			t.Helper()
			w.settle()
			list, err := w.client.DiscoveryV1().EndpointSlices("default").List(w.ctx, metav1.ListOptions{})
			w.must(err)
			return list.Items
		}
		says := func(when string, want ...string) {
			t.Helper()
			var got []string
			for _, s := range mirror() {
				got = append(got, describeSlice(&s))
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: slices (-want +got):\n%s", when, diff)
			}
		}
		made, err := endpoints.Create(w.ctx, handMade("10.0.0.1"), metav1.CreateOptions{})
		w.must(err)
		says("no Service")
		service, err = w.client.CoreV1().Services("default").Create(w.ctx, service, metav1.CreateOptions{})
		w.must(err)
		says("a Service without selector", "IPv4 http/8080/TCP: 10.0.0.1")
		first := mirror()[0]
		if diff := cmp.Diff(map[string]string{"team": "red", discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: mirrorManager}, first.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		if !maps.Equal(first.Annotations, map[string]string{"note": "mine"}) || !metav1.IsControlledBy(&first, made) {
			t.Errorf("annotations %v, owners %v", first.Annotations, first.OwnerReferences)
		}

		made.Subsets = handMade("10.0.0.1 10.0.0.2").Subsets
		made, err = endpoints.Update(w.ctx, made, metav1.UpdateOptions{})
		w.must(err)
		says("an address more", "IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2")
		if again := mirror()[0]; again.Name != first.Name {
			t.Errorf("the slice was not changed but replaced: %s, %s", first.Name, again.Name)
		}
		w.must(w.client.DiscoveryV1().EndpointSlices("default").Delete(w.ctx, first.Name, metav1.DeleteOptions{}))
		says("somebody deletes the slice", "IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2")
		before := len(w.client.Actions())
		w.settle()
		if quiet := w.client.Actions()[before:]; len(quiet) != 0 {
			t.Errorf("requests while nothing changed: %v", quiet)
		}

		for _, step := range []struct {
			name string
			skip func(on bool)
		}{
			{"label skip-mirror", func(on bool) { made.Labels[discoveryv1.LabelSkipMirror] = fmt.Sprint(on) }},
			{"the lock of a leader election", func(on bool) {
				delete(made.Annotations, resourcelock.LeaderElectionRecordAnnotationKey)
				if on {
					made.Annotations[resourcelock.LeaderElectionRecordAnnotationKey] = "{}"
				}
			}},
		} {
			for _, on := range []bool{true, false} {
				step.skip(on)
				made, err = endpoints.Update(w.ctx, made, metav1.UpdateOptions{})
				w.must(err)
				if on {
					says(step.name)
				} else {
					says("without "+step.name, "IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2")
				}
			}
		}
		service.Spec.Selector = map[string]string{"app": "web"}
		service, err = w.client.CoreV1().Services("default").Update(w.ctx, service, metav1.UpdateOptions{})
		w.must(err)
		says("the Service has a selector")
		service.Spec.Selector = nil
		_, err = w.client.CoreV1().Services("default").Update(w.ctx, service, metav1.UpdateOptions{})
		w.must(err)
		says("and has none again", "IPv4 http/8080/TCP: 10.0.0.1 10.0.0.2")
		w.must(endpoints.Delete(w.ctx, "web", metav1.DeleteOptions{}))
		says("the Endpoints go")
	})
}
