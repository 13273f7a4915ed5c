package agent

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod's RuntimeClass names a handler: which of the node's programs makes its containers.
// https://kubernetes.io/docs/concepts/containers/runtime-class/

// labelHandler is the handler that a container was started with; none where its pod has no RuntimeClass.
const labelHandler = "skiff.dev/handler"

// handler is what makes the pod's containers, "" for what makes them anyway. The containers that the pod has say it too: it stays with
// what it began with, also while the API is away.
func (a *Agent) handler(ctx context.Context, s seen) (string, error) {
	class := s.pod.Spec.RuntimeClassName
	if class == nil || *class == "" {
		return "", nil
	}
	handler := madeBy(s.containers)
	if handler == "" {
		err := a.contact.ask(ctx, func(ctx context.Context) error {
			c, err := a.client.NodeV1().RuntimeClasses().Get(ctx, *class, metav1.GetOptions{})
			if err == nil {
				handler = c.Handler
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	if !slices.ContainsFunc(a.runtime.Handlers(), func(h Handler) bool { return h.Name == handler }) {
		return "", fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", handler)
	}
	return handler, nil
}

// madeBy is the handler that the containers were started with.
func madeBy(containers []Container) string {
	for i := range containers {
		if handler := containers[i].Labels[labelHandler]; handler != "" {
			return handler
		}
	}
	return ""
}

// handlerCalled is the handler of a name; without one it is that of pods without a RuntimeClass.
func handlerCalled(name string, all []Handler) Handler {
	for _, h := range all {
		if name == "" || h.Name == name {
			return h
		}
	}
	return Handler{Name: name}
}

// nodeHandlers tells a Node's readers which handlers there are and what each can do; the one without a name is that of pods without
// a RuntimeClass.
func nodeHandlers(handlers []Handler) (list []v1.NodeRuntimeHandler) {
	unnamed := handlerCalled("", handlers)
	unnamed.Name = ""
	for _, h := range append([]Handler{unnamed}, handlers...) {
		features := &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &h.RecursiveReadOnly, UserNamespaces: &h.UserNamespaces}
		list = append(list, v1.NodeRuntimeHandler{Name: h.Name, Features: features})
	}
	return list
}
