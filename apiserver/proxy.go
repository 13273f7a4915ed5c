package apiserver

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
)

// The proxy subresource of pods, services and nodes lets a client reach what listens there through the API server.
// https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/#discovering-builtin-services
//
// It leads to addresses of the cluster only: that of a pod, as its status has it, of a pod behind a Service, or of a node.

// proxyMethods are those that are passed on, with the verb that each needs.
var proxyMethods = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodOptions: "get", http.MethodPost: "create", http.MethodPut: "update",
	http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// target is where a request is passed on to.
type target struct {
	scheme, host string // The host has a port where one is known.
	transport    http.RoundTripper
}

func (h *resource) proxyRoutes(mux chi.Router, path string) {
	for method, verb := range proxyMethods {
		handle := h.may(verb, "proxy", h.proxy)
		mux.Method(method, path, handle)
		mux.Method(method, path+"/*", handle)
	}
}

// proxy passes a request on, upgrades included. What is HTML in the answer gets its links rewritten, as Kubernetes does.
func (h *resource) proxy(w http.ResponseWriter, r *http.Request) error {
	id, namespace := chi.URLParam(r, "name"), chi.URLParam(r, "namespace")
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", h.Singular, id))
	}
	var to target
	var err error
	switch h.Name {
	case "pods":
		to, err = h.server.podTarget(namespace, name, port)
	case "services":
		to, err = h.server.serviceTarget(namespace, name, port)
	case "nodes":
		to, err = h.server.nodeTarget(name, port)
	}
	if err != nil {
		return err
	}
	if to.scheme == "" {
		to.scheme = scheme
	}
	location := &url.URL{Scheme: to.scheme, Host: to.host}
	if _, rest, found := strings.Cut(r.URL.Path, "/"+id+"/proxy/"); found {
		location.Path = "/" + rest
	}
	withoutCredentials(r.Header)
	untimed(r)
	proxy.NewUpgradeAwareHandler(location, to.transport, true, false, proxyResponder{}).ServeHTTP(w, r)
	return nil
}

// withoutCredentials takes away what says who asks: that is for the API server alone.
func withoutCredentials(header http.Header) {
	for name := range header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
			header.Del(name)
		}
	}
}

// podTarget is a pod's address with the port asked for, or the first that a container names.
func (s *Server) podTarget(namespace, name, port string) (target, error) {
	it := s.shelf("pods").get(objectKey(namespace, name))
	if it == nil {
		return target{}, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	pod := it.obj.(*corev1.Pod)
	if port == "" {
		port = firstPort(pod)
	}
	return reachable(addressOf(pod), port, s.transport)
}

func firstPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	return ""
}

func addressOf(pod *corev1.Pod) string {
	if len(pod.Status.PodIPs) > 0 {
		return pod.Status.PodIPs[0].IP
	}
	return ""
}

// reachable makes a target of an address that can belong to a pod or a node of a network: none of this machine alone.
func reachable(address, port string, transport http.RoundTripper) (target, error) {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.IsGlobalUnicast() {
		return target{}, apierrors.NewBadRequest("address not allowed")
	}
	host := ip.String()
	switch {
	case port != "":
		host = net.JoinHostPort(host, port)
	case ip.Is6():
		host = "[" + host + "]"
	}
	return target{host: host, transport: transport}, nil
}

// serviceTarget is one of the pods behind a Service, by chance. The port is the Service's, by number or by name.
func (s *Server) serviceTarget(namespace, name, port string) (target, error) {
	it := s.shelf("services").get(objectKey(namespace, name))
	if _, err := strconv.ParseInt(port, 10, 64); err == nil && it == nil {
		return target{}, apierrors.NewNotFound(corev1.Resource("services"), name)
	}
	if it == nil {
		return target{}, noEndpoints(name) // The Service itself says which port has a number, and nothing else.
	}
	portName, err := portOf(it.obj.(*corev1.Service), port)
	if err != nil {
		return target{}, err
	}
	candidates := s.backends(namespace, name, portName)
	if len(candidates) == 0 {
		return target{}, noEndpoints(name)
	}
	if first := s.ofDefaultFamily(candidates); len(first) > 0 {
		candidates = first
	}
	pick := candidates[rand.N(len(candidates))]
	return reachable(pick.Addr().String(), strconv.Itoa(int(pick.Port())), s.transport)
}

func noEndpoints(service string) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service))
}

// ofDefaultFamily are those of the family of Services that do not say: the API server itself may have no other.
func (s *Server) ofDefaultFamily(all []netip.AddrPort) []netip.AddrPort {
	six := s.config.ServiceCIDRs[0].Addr().Is6()
	return slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool { return a.Addr().Is6() != six })
}

// portOf is the name of a Service's port that a request gives by number or by name.
func portOf(service *corev1.Service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return port, nil
	}
	for _, p := range service.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service.Name))
}

// backends are the ready endpoints of a Service's port that are pods of its namespace, at the address that the pod has:
// who may write EndpointSlices cannot direct the API server to anything else.
func (s *Server) backends(namespace, service, port string) []netip.AddrPort {
	var found []netip.AddrPort
	sh := s.shelf("endpointslices.discovery.k8s.io")
	all := selectAll(sh.resource)
	all.namespace = namespace
	for _, it := range sh.state(s.cache).items(all) {
		slice := it.obj.(*discoveryv1.EndpointSlice)
		if slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		number := slicePort(slice, port)
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			if ip, ok := s.podAt(namespace, &slice.Endpoints[i]); ok {
				found = append(found, netip.AddrPortFrom(ip, number))
			}
		}
	}
	return found
}

func slicePort(slice *discoveryv1.EndpointSlice, name string) uint16 {
	for _, p := range slice.Ports {
		if p.Port != nil && ptrOr(p.Name, "") == name {
			return uint16(*p.Port)
		}
	}
	return 0
}

// podAt is the address of a ready endpoint, where it is one of the pod that the endpoint names.
func (s *Server) podAt(namespace string, e *discoveryv1.Endpoint) (netip.Addr, bool) {
	ref := e.TargetRef
	if !ptrOr(e.Conditions.Ready, true) || len(e.Addresses) == 0 || ref == nil || ref.Kind != "Pod" || ref.Namespace != namespace {
		return netip.Addr{}, false
	}
	it := s.shelf("pods").get(objectKey(namespace, ref.Name))
	if it == nil {
		return netip.Addr{}, false
	}
	ips := it.obj.(*corev1.Pod).Status.PodIPs
	if !slices.ContainsFunc(ips, func(ip corev1.PodIP) bool { return ip.IP == e.Addresses[0] }) {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(e.Addresses[0])
	return ip, err == nil
}

// nodeTarget is a node's agent, whom we show our certificate, or another port of the node.
func (s *Server) nodeTarget(name, port string) (target, error) {
	agent, err := s.nodeAddress(name)
	if err != nil {
		return target{}, err
	}
	host, agentPort, err := net.SplitHostPort(agent)
	if err != nil {
		return target{}, err
	}
	if port == "" || port == agentPort {
		return target{scheme: "https", host: agent, transport: s.config.NodeTransport}, nil
	}
	return reachable(host, port, s.transport)
}

// newPodTransport connects to pods. Their addresses come and go, so no certificate can be for them: it is not asked for a name.
func newPodTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
		DisableCompression:     true, // Client and pod agree on that.
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// proxyResponder tells a client what went wrong on the way to a target.
type proxyResponder struct{}

func (proxyResponder) Error(w http.ResponseWriter, r *http.Request, err error) {
	if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown { // Of a connection; others have their words.
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	writeError(w, r, err)
}
