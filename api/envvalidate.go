package api

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEnv(path *field.Path, env []corev1.EnvVar) field.ErrorList {
	var errs field.ErrorList
	for i, e := range env {
		at := path.Index(i)
		errs = append(errs, requiredName(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName)...)
		if e.ValueFrom != nil {
			errs = append(errs, validateValueFrom(at.Child("valueFrom"), &e)...)
		}
	}
	return errs
}

func validateValueFrom(path *field.Path, e *corev1.EnvVar) field.ErrorList {
	var errs field.ErrorList
	sources, from := 0, e.ValueFrom
	if from.FieldRef != nil {
		sources++
		errs = append(errs, validateFieldRef(path.Child("fieldRef"), from.FieldRef, envFields())...)
	}
	if from.ResourceFieldRef != nil {
		sources++
		errs = append(errs, validateResourceFieldRef(path.Child("resourceFieldRef"), from.ResourceFieldRef)...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		errs = append(errs, validateKeyRef(path.Child("configMapKeyRef"), r.Name, r.Key)...)
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		errs = append(errs, validateKeyRef(path.Child("secretKeyRef"), r.Name, r.Key)...)
	}
	if r := from.FileKeyRef; r != nil {
		sources++
		errs = append(errs, requiredName(path.Child("fileKeyRef", "key"), r.Key, validation.IsRelaxedEnvVarName)...)
		errs = append(errs, requiredName(path.Child("fileKeyRef", "volumeName"), r.VolumeName, validation.IsDNS1123Label)...)
		errs = append(errs, required(path.Child("fileKeyRef", "path"), r.Path)...)
		if slices.Contains(strings.Split(r.Path, "/"), "..") {
			errs = append(errs, field.Invalid(path.Child("fileKeyRef", "path"), r.Path, "must not contain '..'"))
		}
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "",
			"must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(path *field.Path, name, key string) field.ErrorList {
	errs := invalid(path.Child("name"), name, validation.IsDNS1123Subdomain(name))
	return append(errs, requiredName(path.Child("key"), key, validation.IsConfigMapKey)...)
}

func validateEnvFrom(path *field.Path, from []corev1.EnvFromSource) field.ErrorList {
	var errs field.ErrorList
	for i, e := range from {
		at := path.Index(i)
		if e.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName(e.Prefix))...)
		}
		sources := 0
		if e.ConfigMapRef != nil {
			sources++
			errs = append(errs, requiredName(at.Child("configMapRef", "name"), e.ConfigMapRef.Name, validation.IsDNS1123Subdomain)...)
		}
		if e.SecretRef != nil {
			sources++
			errs = append(errs, requiredName(at.Child("secretRef", "name"), e.SecretRef.Name, validation.IsDNS1123Subdomain)...)
		}
		switch { // Without the index, as Kubernetes has it.
		case sources == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case sources > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

// envFields are the fields of its pod that a container may have in its environment; volumeFields those for files.
func envFields() []string {
	return []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
}

func volumeFields() []string {
	return []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
}

// podFields are those that have a name for the downward API at all.
func podFields() []string {
	return append(envFields(), "metadata.annotations", "metadata.labels",
		"spec.restartPolicy", "spec.schedulerName", "status.phase")
}

// validateFieldRef checks a path such as status.podIP or metadata.labels['app'].
func validateFieldRef(path *field.Path, f *corev1.ObjectFieldSelector, allowed []string) field.ErrorList {
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	cannotConvert := func(why string) field.ErrorList {
		return field.ErrorList{field.Invalid(path.Child("fieldPath"), f.FieldPath, "error converting fieldPath: "+why)}
	}
	if f.APIVersion != "v1" {
		return cannotConvert("unsupported pod version: " + f.APIVersion)
	}
	name, key, subscript := strings.Cut(strings.TrimSuffix(f.FieldPath, "']"), "['")
	if subscript && strings.HasSuffix(f.FieldPath, "']") {
		switch name {
		case "metadata.annotations":
			key = strings.ToLower(key)
		case "metadata.labels":
		default:
			return cannotConvert("field label does not support subscript: " + f.FieldPath)
		}
		return invalid(path, key, validation.IsQualifiedName(key))
	}
	if !slices.Contains(podFields(), f.FieldPath) {
		return cannotConvert("field label not supported: " + f.FieldPath)
	}
	return oneOf(path.Child("fieldPath"), f.FieldPath, allowed...)
}

// validateResourceFieldRef checks a reference to one of a container's requests or limits.
func validateResourceFieldRef(path *field.Path, r *corev1.ResourceFieldSelector) field.ErrorList {
	at := path.Child("resource")
	if r.Resource == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-") {
		return validateDivisor(path.Child("divisor"), r, "hugepages")
	}
	errs := oneOf(at, r.Resource, "limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory")
	switch _, name, _ := strings.Cut(r.Resource, "."); name {
	case "cpu", "memory":
		errs = append(errs, validateDivisor(path.Child("divisor"), r, name)...)
	case "ephemeral-storage":
		errs = append(errs, validateDivisor(path.Child("divisor"), r, "local ephemeral storage")...)
	}
	return errs
}

// validateDivisor checks the unit in which an amount is told.
func validateDivisor(path *field.Path, r *corev1.ResourceFieldSelector, name string) field.ErrorList {
	units := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	list := strings.Join(units, ", ")
	if name == "cpu" {
		units = []string{"1m", "1"}
		list = "1m and 1"
	}
	if r.Divisor.IsZero() || slices.Contains(units, r.Divisor.String()) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, r.Resource,
		fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, name))}
}

// validateEnvFiles wants a file that a variable comes from to be in an emptyDir of the pod.
func validateEnvFiles(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	check := func(path *field.Path, c *corev1.Container) {
		for i, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			at, name := path.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName"), e.ValueFrom.FileKeyRef.VolumeName
			switch v := slices.IndexFunc(s.Volumes, func(v corev1.Volume) bool { return v.Name == name }); {
			case v < 0:
				errs = append(errs, field.NotFound(at, name))
			case s.Volumes[v].EmptyDir == nil:
				errs = append(errs, field.Invalid(at, name, "referenced volume must be of type emptyDir"))
			}
		}
	}
	for i := range s.InitContainers {
		check(path.Child("initContainers").Index(i), &s.InitContainers[i])
	}
	for i := range s.Containers {
		check(path.Child("containers").Index(i), &s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		check(path.Child("ephemeralContainers").Index(i), asContainer(&s.EphemeralContainers[i]))
	}
	return errs
}
