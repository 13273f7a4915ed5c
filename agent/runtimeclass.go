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
	handler := ""
	for i := range s.containers {
		if handler = s.containers[i].Labels[labelHandler]; handler != "" {
			break
		}
	}
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
	if !slices.Contains(a.runtime.Handlers(), handler) {
		return "", fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", handler)
	}
	return handler, nil
}

// nodeHandlers tells a Node's readers which handlers there are; the one without a name is that of pods without a RuntimeClass.
func nodeHandlers(handlers []string) []v1.NodeRuntimeHandler {
	list := []v1.NodeRuntimeHandler{{}}
	for _, name := range handlers {
		list = append(list, v1.NodeRuntimeHandler{Name: name})
	}
	return list
}
