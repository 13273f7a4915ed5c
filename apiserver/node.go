package apiserver

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
)

// What a pod prints, and what is typed into it, is at its node. The API server passes bytes through and translates
// nothing: the node's agent speaks the clients' protocols itself.

// at finds where a request about a pod's container is to go: the agent's URL with the path kind/namespace/pod/container.
func (h *resource) at(r *http.Request, kind string, withContainer bool) (*url.URL, error) {
	it, err := h.find(r)
	if err != nil {
		return nil, err
	}
	pod := it.obj.(*corev1.Pod)
	path := "/" + kind + "/" + pod.Namespace + "/" + pod.Name
	if withContainer {
		container, err := containerOf(pod, r.URL.Query().Get("container"))
		if err != nil {
			return nil, err
		}
		path += "/" + container
	}
	if pod.Spec.NodeName == "" {
		return nil, &nowhere{apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))}
	}
	host, err := h.server.nodeAddress(pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: r.URL.RawQuery}, nil
}

// nowhere is the error of a pod that has no node yet.
type nowhere struct{ *apierrors.StatusError }

func containerOf(pod *corev1.Pod, name string) (string, error) {
	names := containerNames(pod)
	switch {
	case name == "" && len(pod.Spec.Containers) == 1: // Whatever others stand beside it.
		return pod.Spec.Containers[0].Name, nil
	case name == "" && slices.Contains(names, pod.Annotations["kubectl.kubernetes.io/default-container"]):
		return pod.Annotations["kubectl.kubernetes.io/default-container"], nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names, " ")))
	case !slices.Contains(names, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

func containerNames(pod *corev1.Pod) []string {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	return names
}

func (s *Server) nodeAddress(name string) (string, error) {
	it := s.shelf("nodes").get(name)
	if it == nil {
		return "", apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	node := it.obj.(*corev1.Node)
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && port != 0 {
			return net.JoinHostPort(a.Address, strconv.Itoa(int(port))), nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has not told yet where its agent listens", name))
}

// nodeRefused makes a Status of what the agent answered.
func nodeRefused(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	message := strings.TrimSpace(string(text))
	switch resp.StatusCode {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(message)
	case http.StatusNotFound:
		err := apierrors.NewNotFound(corev1.Resource("pods"), "")
		err.ErrStatus.Message = message
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("the node answered %s: %s", resp.Status, message))
}

// connect hands the connection through to the agent, whatever protocol the two ends agree on.
func (h *resource) connect(sub string) handler {
	kind := sub
	if sub == "portforward" {
		kind = "portForward"
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		to, err := h.at(r, kind, sub != "portforward")
		if err != nil {
			return err
		}
		p := proxy.NewUpgradeAwareHandler(to, h.server.config.NodeTransport, false, true, responder{})
		p.UseLocationHost = true
		untimed(r)
		p.ServeHTTP(w, r)
		return nil
	}
}

// responder tells a client what went wrong between the API server and the node.
type responder struct{}

func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	writeError(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("connect to the node: %v", err)))
}
