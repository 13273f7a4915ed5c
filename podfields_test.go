package skiff_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api"
)

// What skiff does about a field of a pod. Each is held to what the API server says of a pod that has the field, and nothing else.
const (
	fieldServed   = "served"   // As in Kubernetes; nobody is warned.
	fieldPartly   = "partly"   // Some values are served, others are as with "unserved".
	fieldUnserved = "unserved" // Whoever writes it is warned, and the pod is not started.
	fieldUnheeded = "unheeded" // Whoever writes it is warned, and the pod runs as if it were not there.
	fieldIdle     = "idle"     // Kubernetes, too, does nothing about it on such a node.
)

// podFieldsFile says of each field of a pod what skiff does about it: "FIELD WORD", one a line.
const podFieldsFile = "testdata/podfields.txt"

// telling are values of fields whose meaning is in the value.
var telling = map[string]any{
	"spec.containers[].ports[].hostIP":                   "127.0.0.1",
	"spec.os.name":                                       "windows",
	"spec.preemptionPolicy":                              "PreemptLowerPriority",
	"spec.topologySpreadConstraints[].whenUnsatisfiable": "ScheduleAnyway",
	"spec.volumes[].emptyDir.medium":                     "Drum",
	"spec.securityContext.sysctls[].name":                "kernel.msgmax",
}

// podField is a field without fields of its own, and a way to it from the top: "spec.containers[].image".
type podField struct {
	path string
	at   []int // Index of the field of each struct on the way.
}

// podFields lists the fields of a pod's spec. Those of init containers are those of containers, and those of ephemeral containers
// all but one; what is in a claim's template is the claim's.
func podFields() []podField {
	var all []podField
	var walk func(t reflect.Type, path string, at []int)
	walk = func(t reflect.Type, path string, at []int) {
		switch {
		case t.Kind() == reflect.Pointer:
			walk(t.Elem(), path, at)
		case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
			walk(t.Elem(), path+"[]", at)
		case t.Kind() != reflect.Struct || isLeaf(t):
			all = append(all, podField{path, slices.Clone(at)})
		default:
			for i := range t.NumField() {
				f := t.Field(i)
				next := path
				if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
					next += "." + name
				}
				walk(f.Type, next, append(at, i))
			}
		}
	}
	walk(reflect.TypeFor[corev1.PodSpec](), "spec", nil)
	return slices.DeleteFunc(all, func(f podField) bool {
		return strings.HasPrefix(f.path, "spec.initContainers[].") ||
			strings.HasPrefix(f.path, "spec.ephemeralContainers[].") && !strings.HasSuffix(f.path, "targetContainerName")
	})
}

func isLeaf(t reflect.Type) bool {
	return slices.Contains([]reflect.Type{
		reflect.TypeFor[resource.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[intstr.IntOrString](),
		reflect.TypeFor[corev1.PersistentVolumeClaimTemplate](),
	}, t)
}

// podWith makes a pod that has this field, and of the others only what leads to it.
func podWith(f podField) *corev1.Pod {
	pod := &corev1.Pod{}
	set(reflect.ValueOf(&pod.Spec).Elem(), f.at, telling[f.path])
	switch f.path { // What means nothing alone.
	case "spec.containers[].ports[].hostIP":
		pod.Spec.Containers[0].Ports[0].HostPort = 80
	case "spec.securityContext.sysctls[].value":
		pod.Spec.SecurityContext.Sysctls[0].Name = "net.ipv4.tcp_syncookies"
	case "spec.volumes[].name":
		pod.Spec.Volumes[0].EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	return pod
}

func set(v reflect.Value, at []int, value any) {
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		set(v.Elem(), at, value)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		set(v.Index(0), at, value)
	case v.Kind() == reflect.Struct && !isLeaf(v.Type()):
		set(v.Field(at[0]), at[1:], value)
	case value != nil:
		v.Set(reflect.ValueOf(value).Convert(v.Type()))
	default:
		v.Set(sample(v.Type()))
	}
}

// sample is some value that is not nothing.
func sample(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(reflect.ValueOf("x").Convert(t.Key()), sample(t.Elem()))
	case reflect.Struct:
		if t == reflect.TypeFor[resource.Quantity]() {
			v.Set(reflect.ValueOf(resource.MustParse("1")))
		}
	}
	return v
}

// TestPodFields promises that no field of a pod is passed over in silence: for each it is known what skiff does about it, and it is so.
func TestPodFields(t *testing.T) {
	text, err := os.ReadFile(podFieldsFile)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for line := range strings.Lines(string(text)) {
		path, word, _ := strings.Cut(strings.TrimSpace(line), " ")
		known[path] = word
	}
	for _, f := range podFields() {
		word, ok := known[f.path]
		delete(known, f.path)
		pod := podWith(f)
		unserved, unheeded := len(api.Unserved(pod)) > 0, len(api.Unheeded(pod)) > 0
		switch {
		case !ok:
			t.Errorf("%s says nothing of %s: is it served?", podFieldsFile, f.path)
		case !slices.Contains([]string{fieldServed, fieldPartly, fieldUnserved, fieldUnheeded, fieldIdle}, word):
			t.Errorf("%s: %q says nothing", f.path, word)
		case unserved != (word == fieldUnserved || word == fieldPartly) || unheeded != (word == fieldUnheeded):
			t.Errorf("%s is to be %s; warned of as not served: %t, as passed over: %t", f.path, word, unserved, unheeded)
		}
	}
	for path := range known {
		t.Errorf("%s speaks of %s, which there is not", podFieldsFile, path)
	}
}

// The lines of docs/compatibility.md from this one on are made of what the API server warns of.
const podFieldsBegin = "<!-- What follows is made from what the API server warns of: go test . -run PodFields -update -->\n"

// TestCompatibilityPodFields promises that the page has every field of a pod that is not served.
func TestCompatibilityPodFields(t *testing.T) { checkMade(t, podFieldsBegin, podFieldsText()) }

// podFieldsText names the fields that the API server warns of; of a part of which all are such, only that part.
func podFieldsText() string {
	fields := podFields()
	warned := func(of func(f podField) bool) string {
		var names []string
		for _, f := range fields {
			if !of(f) {
				continue
			}
			name := f.path
			for i := range len(f.path) {
				if part := f.path[:i]; f.path[i] == '.' && all(fields, part, of) {
					name = part
					break
				}
			}
			if name = "`" + strings.TrimPrefix(name, "spec.") + "`"; value(f) != "" {
				name += " (" + value(f) + ")"
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("\nNot served: %s.\n\nPassed over: %s.\n\n",
		warned(func(f podField) bool { return len(api.Unserved(podWith(f))) > 0 }),
		warned(func(f podField) bool { return len(api.Unheeded(podWith(f))) > 0 }))
}

// value is the value of a field that it is not served with, if it is served with others.
func value(f podField) string {
	if v, ok := telling[f.path].(string); ok {
		return "such as `" + v + "`"
	}
	return ""
}

// all says whether every field of a part is such.
func all(fields []podField, part string, of func(podField) bool) bool {
	for _, f := range fields {
		if strings.HasPrefix(f.path, part+".") || strings.HasPrefix(f.path, part+"[") {
			if !of(f) {
				return false
			}
		}
	}
	return true
}
