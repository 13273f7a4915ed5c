package controller

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/reconcile"
)

// serviceLB gives every Service of type LoadBalancer an address where there is no cloud to give one: those of the nodes. The
// proxies open the Service's ports there. One port of a node can belong to one Service only; the oldest that asks for it has
// it, and the others wait. Services with a loadBalancerClass are somebody else's.
type serviceLB struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	byPort   cache.Indexer
	nodes    corelisters.NodeLister
	slices   cache.Indexer
	events   record.EventRecorder
	reserved map[int32]bool
}

// balancedPort is the index of Services of type LoadBalancer by the ports that they want of the nodes.
const balancedPort = "controller/balancedPort"

func newServiceLB(b *base, events record.EventRecorder, reserved []uint16) error {
	core, endpointSlices := b.factory.Core().V1(), b.factory.Discovery().V1().EndpointSlices()
	services := core.Services().Informer()
	c := &serviceLB{
		client: b.client, services: core.Services().Lister(), byPort: services.GetIndexer(),
		nodes: core.Nodes().Lister(), slices: endpointSlices.Informer().GetIndexer(), events: events, reserved: map[int32]bool{},
	}
	for _, port := range reserved {
		c.reserved[int32(port)] = true
	}
	if err := addIndex(services, balancedPort, balancedPorts); err != nil {
		return fmt.Errorf("index for the servicelb loop: %w", err)
	}
	if err := indexByService(endpointSlices.Informer()); err != nil {
		return err
	}
	loop := b.loop("servicelb", 1, c.Reconcile)
	if err := b.watch(loop, services, c.sameWish); err != nil {
		return err
	}
	if err := b.watch(loop, endpointSlices.Informer(), keepingService(core.Services().Lister())); err != nil {
		return err
	}
	all := func() {
		for _, port := range c.byPort.ListIndexFuncValues(balancedPort) {
			keys, _ := c.byPort.IndexKeys(balancedPort, port) // Its only error is an unknown index.
			for _, key := range keys {
				loop.Add(key)
			}
		}
	}
	return b.handle(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { all() },
		UpdateFunc: func(before, after any) { // A heartbeat is none of our business.
			if !slices.Equal(balancingAddresses(before.(*corev1.Node)), balancingAddresses(after.(*corev1.Node))) {
				all()
			}
		},
		DeleteFunc: func(any) { all() },
	})
}

// sameWish returns the Service and all others that want one of its ports: when it goes, one of them gets it.
func (c *serviceLB) sameWish(obj any) []string {
	keys := reconcile.ObjectKey(obj)
	ports, _ := balancedPorts(obj)
	for _, port := range ports {
		rivals, _ := c.byPort.IndexKeys(balancedPort, port) // Its only error is an unknown index.
		keys = append(keys, rivals...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// keepingService returns a function from an EndpointSlice to its Service, if that one's address hangs on where its pods are.
func keepingService(services corelisters.ServiceLister) func(obj any) []string {
	return func(obj any) []string {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil
		}
		name := slice.Labels[discoveryv1.LabelServiceName]
		service, err := services.Services(slice.Namespace).Get(name)
		if err != nil || !balanced(service) || service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			return nil // One that the cache does not show yet comes by itself.
		}
		return []string{slice.Namespace + "/" + name}
	}
}

// Reconcile writes the addresses of one Service into its status.
func (c *serviceLB) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if service.Spec.LoadBalancerClass != nil || service.DeletionTimestamp != nil {
		return 0, nil
	}
	var want []corev1.LoadBalancerIngress
	if balanced(service) {
		if want, err = c.addresses(service); err != nil {
			return 0, err
		}
	}
	if equality.Semantic.DeepEqual(want, service.Status.LoadBalancer.Ingress) {
		return 0, nil
	}
	service = service.DeepCopy()
	service.Status.LoadBalancer.Ingress = want
	if _, err := c.client.CoreV1().Services(namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{}); err != nil {
		return 0, fmt.Errorf("write the addresses of service %s: %w", key, err)
	}
	return 0, nil
}

// addresses returns what the Service should have. If it must wait, an Event says for what.
func (c *serviceLB) addresses(service *corev1.Service) ([]corev1.LoadBalancerIngress, error) {
	if reason, err := c.blocked(service); err != nil || reason != "" {
		if reason != "" {
			c.events.Event(service, corev1.EventTypeWarning, "PortNotAvailable", reason)
		}
		return nil, err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var endpointSlices []*discoveryv1.EndpointSlice
	if service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		endpointSlices, err = slicesOf(c.slices, service.Namespace, service.Name)
		if err != nil {
			return nil, err
		}
	}
	if in := nodeIngress(nodes, endpointSlices, service.Spec.IPFamilies); len(in) > 0 {
		return in, nil
	}
	return service.Status.LoadBalancer.Ingress, nil // No node is ready. They will be back.
}

// blocked says why the Service cannot have its ports, or nothing.
func (c *serviceLB) blocked(service *corev1.Service) (string, error) {
	ports, _ := balancedPorts(service)
	for i, port := range ports {
		if p := service.Spec.Ports[i]; p.Protocol == corev1.ProtocolTCP && c.reserved[p.Port] {
			return fmt.Sprintf("port %s of the nodes belongs to the cluster itself", port), nil
		}
		rivals, err := indexed[*corev1.Service](c.byPort, balancedPort, port)
		if err != nil {
			return "", err
		}
		for _, rival := range rivals {
			if compareAge(rival, service) < 0 {
				return fmt.Sprintf("port %s of the nodes belongs to service %s/%s", port, rival.Namespace, rival.Name), nil
			}
		}
	}
	return "", nil
}

// compareAge orders Services by age, those of one second by name.
func compareAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// balanced says whether the Service gets its addresses here.
func balanced(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil
}

// balancedPorts returns the ports that a Service wants of the nodes, such as "80/TCP", in the order of its own.
func balancedPorts(obj any) ([]string, error) {
	service, ok := obj.(*corev1.Service)
	if !ok || !balanced(service) {
		return nil, nil
	}
	var ports []string
	for _, p := range service.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return ports, nil
}

// nodeIngress returns the addresses of the nodes that can take part, in order of their names, each with one of each family, in the order of
// the Service's. Where slices are given, those nodes only that have a ready endpoint, unless none has: an address should not
// change for a moment without pods.
func nodeIngress(nodes []*corev1.Node, endpointSlices []*discoveryv1.EndpointSlice, families []corev1.IPFamily) []corev1.LoadBalancerIngress {
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	serving := map[string]bool{}
	for _, slice := range endpointSlices {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				serving[*e.NodeName] = true
			}
		}
	}
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	var all, chosen []corev1.LoadBalancerIngress
	for _, node := range nodes {
		for _, addr := range ofFamilies(balancingAddresses(node), families) {
			// VIP: a packet that reaches the node still bears the address, so the proxies of other nodes need not send theirs here.
			in := corev1.LoadBalancerIngress{IP: addr, IPMode: new(corev1.LoadBalancerIPModeVIP)}
			all = append(all, in)
			if serving[node.Name] {
				chosen = append(chosen, in)
			}
		}
	}
	if len(chosen) == 0 {
		return all
	}
	return chosen
}

// ofFamilies chooses the first address of each family, in their order.
func ofFamilies(addrs []string, families []corev1.IPFamily) (chosen []string) {
	for _, family := range families {
		i := slices.IndexFunc(addrs, func(text string) bool {
			addr, err := netip.ParseAddr(text)
			return err == nil && addr.Is6() == (family == corev1.IPv6Protocol)
		})
		if i >= 0 {
			chosen = append(chosen, addrs[i])
		}
	}
	return chosen
}

// balancingAddresses returns the addresses under which the node takes part in load balancing, none if it does not: it is not
// ready, on its way out, or excluded by the label that Kubernetes has for it.
func balancingAddresses(node *corev1.Node) (all []string) {
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || node.DeletionTimestamp != nil {
		return nil
	}
	if ready := nodeCondition(node.Status.Conditions, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionTrue {
		return nil
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			all = append(all, a.Address)
		}
	}
	return all
}
