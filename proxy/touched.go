package proxy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// serviceOf returns the "namespace/name" of the Service that an EndpointSlice says it belongs to.
func serviceOf(obj any) []string {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}
}

// touched notes the Services of an object and has the one key of the loop queued: many events become one batch.
func (p *Proxy) touched(names func(obj any) []string) func(obj any) []string {
	return func(obj any) []string {
		touched := names(obj)
		if len(touched) == 0 {
			return nil
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range touched {
			p.dirty[name] = true
		}
		return []string{onlyKey}
	}
}

// movedZone returns all Services, if obj is this node and says that it is in another zone than it was: hints may mean other
// endpoints now.
func (p *Proxy) movedZone(obj any) []string {
	node, ok := obj.(*corev1.Node)
	if !ok || node.Name != p.rules.config.NodeName {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	zone := node.Labels[corev1.LabelTopologyZone]
	if zone == p.rules.zone {
		return nil
	}
	p.rules.zone = zone
	return slices.Collect(maps.Keys(p.rules.services))
}

// touchAll notes everything: the informers may know them before they have told.
func (p *Proxy) touchAll() error {
	all, err := p.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	var pods []*corev1.Pod
	if p.pods != nil {
		if pods, err = p.pods.List(labels.Everything()); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, svc := range all {
		p.dirty[svc.Namespace+"/"+svc.Name] = true
	}
	for _, pod := range pods {
		for _, name := range p.rules.config.podWithHostPorts(pod) {
			p.dirty[name] = true
		}
	}
	return nil
}

// update computes the touched Services anew. What cannot be asked about its health, for which deaf gives the reasons, stays
// touched; all else goes on.
func (p *Proxy) update() (deaf, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.dirty {
		if podName, ok := strings.CutPrefix(name, podOwner); ok {
			pod, err := p.readPod(podName)
			if err != nil {
				return nil, err
			}
			p.rules.SetPod(podName, pod)
			delete(p.dirty, name)
			continue
		}
		svc, endpointSlices, err := p.read(name)
		if err != nil {
			return nil, err
		}
		p.rules.Set(name, svc, endpointSlices)
		if err := p.health.set(name, p.rules.health(name)); err != nil {
			deaf = errors.Join(deaf, err)
			continue
		}
		delete(p.dirty, name)
	}
	return deaf, nil
}

func (p *Proxy) read(name string) (*corev1.Service, []*discoveryv1.EndpointSlice, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, nil, err
	}
	svc, err := p.services.Services(namespace).Get(short)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get service %s: %w", name, err)
	}
	objs, err := p.slices.ByIndex(byService, name)
	if err != nil {
		return nil, nil, fmt.Errorf("get EndpointSlices of %s: %w", name, err)
	}
	found := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		found = append(found, obj.(*discoveryv1.EndpointSlice))
	}
	return svc, found, nil
}

func (p *Proxy) readPod(name string) (*corev1.Pod, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, err
	}
	pod, err := p.pods.Pods(namespace).Get(short)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get pod %s: %w", name, err)
	}
	return pod, nil
}
