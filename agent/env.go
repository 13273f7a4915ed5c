package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// objectSource is where environment and volumes get the ConfigMaps and Secrets of a pod's namespace from, and the tokens of its
// ServiceAccount.
type objectSource interface {
	configMap(ctx context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error)
	secret(ctx context.Context, pod *v1.Pod, name string) (*v1.Secret, error)
	token(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (token, error)
}

// variables collects an environment: names keep the place of their first value, later values win.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *variables) list() []string {
	list := make([]string, 0, len(v.names))
	for _, name := range v.names {
		list = append(list, name+"="+v.values[name])
	}
	return list
}

// environment works out a container's environment: what comes from the Services, envFrom and env, each over the one before.
// at is where the pod is, services are those of serviceVariables, allocatable stands in for limits that are not set, volumes are
// the pod's.
func environment(ctx context.Context, pod *v1.Pod, c *v1.Container, at place, services map[string]string,
	allocatable v1.ResourceList, volumes map[string]volume, from objectSource) (*variables, error) {
	env := &variables{values: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		env.set(name, services[name])
	}
	for i := range c.EnvFrom {
		if err := addAllFrom(ctx, env, pod, &c.EnvFrom[i], from); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		e := &c.Env[i]
		value, ok, err := expand(e.Value, env.values), true, error(nil)
		switch {
		case e.ValueFrom == nil:
		case e.ValueFrom.FileKeyRef != nil:
			value, ok, err = fromFile(e.ValueFrom.FileKeyRef, volumes)
		default:
			value, ok, err = valueFrom(ctx, pod, c, e.ValueFrom, at, allocatable, from)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			env.set(e.Name, value)
		}
	}
	return env, nil
}

// addAllFrom adds every key of a ConfigMap or Secret that can be a variable's name.
func addAllFrom(ctx context.Context, env *variables, pod *v1.Pod, source *v1.EnvFromSource, from objectSource) error {
	data := map[string]string{}
	var err error
	optional := false
	switch {
	case source.ConfigMapRef != nil:
		var object *v1.ConfigMap
		optional = isTrue(source.ConfigMapRef.Optional)
		if object, err = from.configMap(ctx, pod, source.ConfigMapRef.Name); err == nil {
			data = object.Data
		}
	case source.SecretRef != nil:
		var object *v1.Secret
		optional = isTrue(source.SecretRef.Optional)
		if object, err = from.secret(ctx, pod, source.SecretRef.Name); err == nil {
			for key, value := range object.Data {
				data[key] = string(value)
			}
		}
	}
	if err != nil && !(optional && errors.IsNotFound(err)) {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if name := source.Prefix + key; len(validation.IsRelaxedEnvVarName(name)) == 0 {
			env.set(name, data[key])
		}
	}
	return nil
}

// valueFrom returns ok false for an optional source that is not there.
func valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, source *v1.EnvVarSource, at place,
	allocatable v1.ResourceList, from objectSource) (value string, ok bool, err error) {
	switch {
	case source.FieldRef != nil:
		value, err = podField(pod, source.FieldRef.FieldPath, at)
		return value, true, err
	case source.ResourceFieldRef != nil:
		value, err = resourceField(pod, c, source.ResourceFieldRef, allocatable)
		return value, true, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		object, err := from.configMap(ctx, pod, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, ok = object.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", ref.Key, pod.Namespace, ref.Name)
		}
		return value, ok, nil
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		object, err := from.secret(ctx, pod, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		data, ok := object.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %s in Secret %s/%s", ref.Key, pod.Namespace, ref.Name)
		}
		return string(data), ok, nil
	}
	return "", true, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func unlessOptional(err error, optional *bool) error {
	if isTrue(optional) && errors.IsNotFound(err) {
		return nil
	}
	return err
}

// podField resolves a fieldRef.
func podField(pod *v1.Pod, path string, at place) (string, error) {
	if rest, ok := strings.CutPrefix(path, "metadata.labels['"); ok && strings.HasSuffix(rest, "']") {
		return pod.Labels[strings.TrimSuffix(rest, "']")], nil
	}
	if rest, ok := strings.CutPrefix(path, "metadata.annotations['"); ok && strings.HasSuffix(rest, "']") {
		return pod.Annotations[strings.TrimSuffix(rest, "']")], nil
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	}
	if value, ok := at.addressField(pod, path); ok {
		return value, nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// resourceField resolves a resourceFieldRef.
func resourceField(pod *v1.Pod, c *v1.Container, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != c.Name {
		found := false
		for _, other := range allContainers(&pod.Spec) {
			if other.Name == ref.ContainerName {
				c, found = other, true
			}
		}
		if !found {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var quantity resource.Quantity
	switch kind {
	case "limits":
		quantity = limitFor(pod, c, v1.ResourceName(name), allocatable)
	case "requests":
		quantity = c.Resources.Requests[v1.ResourceName(name)]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	if name == string(v1.ResourceCPU) {
		return strconv.FormatInt(divideUp(quantity.MilliValue(), max(ref.Divisor.MilliValue(), 0), 1000), 10), nil
	}
	return strconv.FormatInt(divideUp(quantity.Value(), max(ref.Divisor.Value(), 0), 1), 10), nil
}

// limitFor is a container's limit or, where it has none, its pod's, or else what the node has to give.
func limitFor(pod *v1.Pod, c *v1.Container, name v1.ResourceName, allocatable v1.ResourceList) resource.Quantity {
	limit := c.Resources.Limits[name]
	switch name {
	case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
	default:
		return limit // Huge pages are what was asked for, and no more.
	}
	if limit.IsZero() && pod.Spec.Resources != nil {
		limit = pod.Spec.Resources.Limits[name]
	}
	if limit.IsZero() {
		limit = allocatable[name]
	}
	return limit
}

// divideUp divides and rounds up; a divisor of zero stands for unit.
func divideUp(value, divisor, unit int64) int64 {
	if divisor == 0 {
		divisor = unit
	}
	return (value + divisor - 1) / divisor
}

// expand replaces $(NAME) by the variable's value. $$ is a dollar, and what names no variable stays as it is.
func expand(s string, values map[string]string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		s = s[i:]
		switch end := strings.IndexByte(s, ')'); {
		case s[1] == '$':
			out.WriteByte('$')
			s = s[2:]
		case s[1] == '(' && end > 0:
			if value, ok := values[s[2:end]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString(s[:end+1])
			}
			s = s[end+1:]
		default:
			out.WriteByte('$')
			s = s[1:]
		}
	}
}

// serviceVariables are the variables by which a pod of namespace finds Services. The API server's own is always among them,
// the namespace's only where links is set.
func serviceVariables(services []*v1.Service, namespace string, links bool) map[string]string {
	vars := map[string]string{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		api := s.Namespace == metav1.NamespaceDefault && s.Name == "kubernetes"
		if api || links && s.Namespace == namespace {
			addService(vars, s)
		}
	}
	return vars
}

// addService adds the plain variables and those of Docker's links.
func addService(vars map[string]string, s *v1.Service) {
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	vars[prefix+"_SERVICE_HOST"] = ip
	vars[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			vars[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(v1.ProtocolTCP)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			vars[prefix+"_PORT"] = url
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		vars[link] = url
		vars[link+"_PROTO"] = strings.ToLower(protocol)
		vars[link+"_PORT"] = port
		vars[link+"_ADDR"] = ip
	}
}
