package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

// serviceCIDR is one as a person would write it: its name and its ranges. A ! before the name marks it as deleted.
func serviceCIDR(text string) *networkingv1.ServiceCIDR {
	fields := strings.Fields(text)
	name, deleted := strings.CutPrefix(fields[0], "!")
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: fields[1:]}}
	if deleted {
		c.DeletionTimestamp = &metav1.Time{Time: time.Unix(0, 0)}
	}
	return c
}

// A range is in use as long as a Service has an address of it that no range holds which stays.
func TestServiceCIDRInUse(t *testing.T) {
	for _, tc := range []struct {
		name, addresses string
		ranges          []string // The first is the one that goes.
		want            bool
	}{
		{"no address", "", []string{"!a 10.0.0.0/24"}, false},
		{"an address", "10.0.0.1", []string{"!a 10.0.0.0/24"}, true},
		{"an address of another range", "10.1.0.1", []string{"!a 10.0.0.0/24", "b 10.1.0.0/24"}, false},
		{"an address of nobody's", "other:10.0.0.1", []string{"!a 10.0.0.0/24"}, false},
		{"of the second family", "fd00::1", []string{"!a 10.0.0.0/24 fd00::/112"}, true},
		{"inside another range", "10.0.0.1", []string{"!a 10.0.0.0/24", "b 10.0.0.0/16"}, false},
		{"the same as another range", "10.0.0.1", []string{"!a 10.0.0.0/24", "b 10.0.0.0/24"}, false},
		{"the same as another range that goes", "10.0.0.1", []string{"!a 10.0.0.0/24", "!b 10.0.0.0/24"}, true},
		{"around another range that holds the address", "10.0.0.1", []string{"!a 10.0.0.0/16", "b 10.0.0.0/24"}, false},
		{"around another range that does not", "10.0.1.1", []string{"!a 10.0.0.0/16", "b 10.0.0.0/24"}, true},
		{"the first address of another range is not held there", "10.0.1.0", []string{"!a 10.0.0.0/16", "b 10.0.1.0/24"}, true},
		{"nor is the last", "10.0.1.255", []string{"!a 10.0.0.0/16", "b 10.0.1.0/24"}, true},
		{"but the last of IPv6 is", "fd00::ffff", []string{"!a fd00::/64", "b fd00::/112"}, false},
		{"one family is elsewhere, one is not", "10.0.0.1 fd00::1", []string{"!a 10.0.0.0/24 fd00::/112", "b 10.0.0.0/16"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var all []*networkingv1.ServiceCIDR
			for _, text := range tc.ranges {
				all = append(all, serviceCIDR(text))
			}
			var addresses []*networkingv1.IPAddress
			for text := range strings.FieldsSeq(tc.addresses) {
				name, others := strings.CutPrefix(text, "other:")
				a := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: api.AddressManager}}}
				if others {
					a.Labels = nil
				}
				addresses = append(addresses, a)
			}
			if got := holdsAddresses(all[0], all, addresses); got != tc.want {
				t.Errorf("addresses %s, ranges %q: in use %v, want %v", tc.addresses, tc.ranges, got, tc.want)
			}
		})
	}
}

func (c *cluster) rangeIs(name, want string) {
	c.Helper()
	c.eventually("range "+name+" is "+want, func() string {
		r, err := c.client.NetworkingV1().ServiceCIDRs().Get(c.ctx, name, metav1.GetOptions{})
		got := "gone"
		switch {
		case err == nil:
			ready := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			if ready == nil {
				return "it says nothing"
			}
			got = fmt.Sprint(ready.Status, ready.Reason, " ", slices.Contains(r.Finalizers, api.ServiceCIDRProtection))
		case !apierrors.IsNotFound(err):
			got = err.Error()
		}
		if got != want {
			return "it is " + got
		}
		return ""
	})
}

// More ranges give Services addresses, and stay for as long as one has an address of theirs.
func TestServiceCIDR(t *testing.T) {
	c := startCluster(t)
	c.config.rangeGrace = time.Millisecond
	c.restart()
	c.rangeIs(api.DefaultServiceCIDR, "True true")
	ranges := c.client.NetworkingV1().ServiceCIDRs()
	add := func(text string) {
		t.Helper()
		_, err := ranges.Create(c.ctx, serviceCIDR(text), metav1.CreateOptions{})
		c.must(err)
	}
	add("more 10.60.0.0/24 fd60::/112")
	c.rangeIs("more", "True true")
	service := func(name, address string) error {
		_, err := c.client.CoreV1().Services("default").Create(c.ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: address, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		return err
	}
	c.must(service("a", "10.60.0.7"))
	c.restart() // So that the controllers know of the address, with nearly no grace for it to come to them.
	c.must(ranges.Delete(c.ctx, "more", metav1.DeleteOptions{}))
	c.rangeIs("more", "FalseTerminating true")
	if err := service("b", "10.60.0.8"); !apierrors.IsInvalid(err) {
		t.Errorf("an address of a range that goes: error %v, want it refused", err)
	}
	add("wider 10.60.0.0/16")
	c.rangeIs("wider", "True true")
	c.rangeIs("more", "gone")
	c.must(service("b", "10.60.0.8"))

	c.must(ranges.Delete(c.ctx, "wider", metav1.DeleteOptions{}))
	c.rangeIs("wider", "FalseTerminating true")
	for _, name := range []string{"a", "b"} {
		c.must(c.client.CoreV1().Services("default").Delete(c.ctx, name, metav1.DeleteOptions{}))
	}
	c.rangeIs("wider", "gone")
}
