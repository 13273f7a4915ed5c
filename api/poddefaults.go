package api

import (
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
)

// defaultPod fills in what holds for a Pod itself but, for Kubernetes' history, not for a pod template.
func defaultPod(p *corev1.Pod) {
	defaultPodSpec(&p.Spec)
	if *p.Spec.TerminationGracePeriodSeconds < 0 {
		*p.Spec.TerminationGracePeriodSeconds = 1
	}
	setDefaultPtr(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			defaultRequests(&containers[i].Resources)
			if p.Spec.HostNetwork {
				defaultHostPorts(containers[i].Ports)
			}
		}
	}
	defaultPodIPs(&p.Status)
}

// defaultRequests asks for as much as the limits allow where a request is not given.
func defaultRequests(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// defaultPodResources completes what is asked for the pod as a whole, once all of its containers are known. It requests as much as
// its containers request together, else as much as its limit allows. Its limit is what its containers may have together, where
// each of them has one.
func defaultPodResources(p *corev1.Pod) {
	r := p.Spec.Resources
	if r == nil || len(r.Limits)+len(r.Requests) == 0 {
		return
	}
	defaultPodHugePages(p)
	requests := podresource.AggregateContainerRequests(p, podresource.PodResourcesOptions{})
	maps.DeleteFunc(requests, func(name corev1.ResourceName, _ resource.Quantity) bool { return !completed(name) })
	for name, limit := range r.Limits {
		if _, asked := requests[name]; !asked && podresource.IsSupportedPodLevelResource(name) {
			requests[name] = limit.DeepCopy()
		}
	}
	maps.Copy(requests, r.Requests)
	if len(requests) > 0 {
		r.Requests = requests
	}
	defaultPodLimits(p)
}

// defaultPodHugePages gives the pod as many as its containers may have together: they cannot be promised more often than they are
// there, so a limit is a request.
func defaultPodHugePages(p *corev1.Pod) {
	r := p.Spec.Resources
	for name, together := range podresource.AggregateContainerLimits(p, podresource.PodResourcesOptions{}) {
		_, requested := r.Requests[name]
		if _, set := r.Limits[name]; set || requested || !isHugePages(name) {
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = together
	}
}

func defaultPodLimits(p *corev1.Pod) {
	r := p.Spec.Resources
	together := podresource.AggregateContainerLimits(p, podresource.PodResourcesOptions{})
	for name, request := range r.Requests {
		_, set := r.Limits[name]
		if set || !completed(name) || !limited(&p.Spec, name) {
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = together[name]
		if limit := together[name]; request.Cmp(limit) > 0 { // A pod that asks for more than its containers may have is valid.
			r.Limits[name] = request.DeepCopy()
		}
	}
}

// completed tells what a pod as a whole has of its containers, where it does not say itself.
func completed(name corev1.ResourceName) bool {
	return podresource.IsSupportedPodLevelResource(name) && !isHugePages(name)
}

// limited says that each container has a limit of a resource.
func limited(s *corev1.PodSpec, name corev1.ResourceName) bool {
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		if _, ok := c.Resources.Limits[name]; !ok {
			return false
		}
	}
	return true
}

// defaultHostPorts says what sharing the node's network means: a container's port is a port of the node.
func defaultHostPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		setDefault(&ports[i].HostPort, ports[i].ContainerPort)
	}
}

// defaultPodIPs keeps podIP and podIPs[0] the same; where they differ, podIP holds.
func defaultPodIPs(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// defaultPodSpec fills in what holds for pods and for the templates that pods are made from.
func defaultPodSpec(s *corev1.PodSpec) {
	setDefault(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	setDefault(&s.DNSPolicy, corev1.DNSClusterFirst)
	setDefault(&s.RestartPolicy, corev1.RestartPolicyAlways)
	setDefault(&s.SchedulerName, corev1.DefaultSchedulerName)
	setDefaultPtr(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	setDefaultPtr(&s.SecurityContext, corev1.PodSecurityContext{})
	roundUp(s.Overhead)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		defaultContainer(asContainer(&s.EphemeralContainers[i]))
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = defaultPullPolicy(c.Image)
	}
	setDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				setDefaultPtr(&from.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(probe)
	}
	if c.Lifecycle != nil {
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				defaultHTTPGet(hook.HTTPGet)
			}
		}
	}
}

// defaultPullPolicy is Always for what may change under the same name (the tag latest, or none), else IfNotPresent.
func defaultPullPolicy(image string) corev1.PullPolicy {
	last := image[strings.LastIndexByte(image, '/')+1:]
	if _, tag, tagged := strings.Cut(last, ":"); tagged && tag != "latest" && !strings.Contains(last, "@") {
		return corev1.PullIfNotPresent // That is true of nearly all, and also if it is no image's name: to parse one takes long.
	}
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent // Validation, or the pull, has more to say about such an image.
	}
	if tagged, ok := reference.TagNameOnly(ref).(reference.Tagged); ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	setDefault(&p.TimeoutSeconds, 1)
	setDefault(&p.PeriodSeconds, 10)
	setDefault(&p.SuccessThreshold, 1)
	setDefault(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		setDefaultPtr(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(g *corev1.HTTPGetAction) {
	if g == nil {
		return
	}
	setDefault(&g.Path, "/")
	setDefault(&g.Scheme, corev1.URISchemeHTTP)
}

func defaultFieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil {
		setDefault(&f.APIVersion, "v1")
	}
}

// roundUp takes quantities to whole thousandths, the finest that the API keeps.
func roundUp(list corev1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}
