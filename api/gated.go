package api

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// gatedInPods are the fields of a pod's spec that stand in its Go type, and that a cluster as it is by default does not have. (One
// such field, lifecycle.stopSignal, is not among them: skiff's nodes do what it says.)
func gatedInPods(spec string) []string {
	paths := []string{"schedulingGroup", "evictionResponders", "volumes.emptyDir.mode"}
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		paths = append(paths, list+".volumeMounts.bindMountOptions")
		for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
			paths = append(paths, list+"."+probe+".httpGet.protocol")
		}
	}
	for i, path := range paths {
		paths[i] = spec + "." + path
	}
	return paths
}

// dropping makes of a row's gated fields the rule that takes them out of an object of its Go type.
// https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/
func dropping(of reflect.Type, paths []string) func(obj runtime.Object) {
	if len(paths) == 0 {
		return nil
	}
	var routes [][]int
	for _, path := range paths {
		routes = append(routes, route(of, path))
	}
	return func(obj runtime.Object) {
		for _, fields := range routes {
			drop(reflect.ValueOf(obj).Elem(), fields)
		}
	}
}

// route gives the fields on the way to the one that a path of their JSON names leads to. What is in a list is no step.
func route(in reflect.Type, path string) []int {
	var fields []int
	for name := range strings.SplitSeq(path, ".") {
		for in.Kind() == reflect.Pointer || in.Kind() == reflect.Slice {
			in = in.Elem()
		}
		i := slices.IndexFunc(reflect.VisibleFields(in), func(f reflect.StructField) bool {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return tag == name
		})
		if i < 0 {
			panic(fmt.Sprintf("%s has no field %s of %s", in, name, path)) // The table is wrong; every test that reads it says so.
		}
		field := reflect.VisibleFields(in)[i]
		fields, in = append(fields, field.Index...), field.Type // More than one where it is embedded.
	}
	return fields
}

// drop empties the field at the end of a route, in every item of the lists on the way. What is empty already is not written to:
// objects may have parts in common.
func drop(in reflect.Value, route []int) {
	if len(route) == 0 {
		if !in.IsZero() {
			in.SetZero()
		}
		return
	}
	switch in.Kind() {
	case reflect.Pointer:
		if !in.IsNil() {
			drop(in.Elem(), route)
		}
	case reflect.Slice:
		for i := range in.Len() {
			drop(in.Index(i), route)
		}
	default:
		drop(in.Field(route[0]), route[1:])
	}
}
