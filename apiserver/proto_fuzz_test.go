package apiserver

import (
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// FuzzProto sends objects as protobuf. What the server takes means the same as the JSON that it says it is: sent as that, it is
// the same object, and in either form the answer is.
func FuzzProto(f *testing.F) {
	paths := []string{configMapsPath, podsPath, servicesPath, deployments}
	meta := metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}
	labels := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	pod := corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "X", Value: "y"}},
			LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("web")}}}}},
		Tolerations: []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}},
	}
	for i, obj := range []runtime.Object{
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: meta, Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {0, 255}}},
		&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: meta, Spec: pod},
		&corev1.Service{TypeMeta: metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}, ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}},
		&appsv1.Deployment{TypeMeta: metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}, ObjectMeta: meta,
			Spec: appsv1.DeploymentSpec{Selector: labels, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: pod}}},
	} {
		f.Add(byte(i), []byte(toProto(f, obj)))
	}
	s := start(f)
	create := func(t *testing.T, path, media, accept, body string) answer {
		return s.do(t, "POST", path+"?dryRun=All&fieldManager=m", body, "Content-Type", media, "Accept", accept)
	}
	f.Fuzz(func(t *testing.T, path byte, body []byte) {
		to := paths[int(path)%len(paths)]
		first := create(t, to, typeProto, typeJSON, string(body))
		if isFailure(t, typeProto, first) {
			t.Fatalf("%d: %s", first.code, first.body)
		}
		if first.code != 201 || !utf8.Valid(body) { // Text of JSON is UTF-8.
			return
		}
		want := withoutOrigin(t, first)
		for _, accept := range []string{typeJSON, typeProto} {
			again := create(t, to, typeJSON, accept, string(first.body)).want(t, 201)
			if accept == typeProto {
				obj, _, err := protoSerializer.Decode(again.body, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				again.body = []byte(toJSON(t, obj))
			}
			if diff := cmp.Diff(want, withoutOrigin(t, again)); diff != "" {
				t.Errorf("sent as JSON, answered as %s (-want +got):\n%s", accept, diff)
			}
		}
	})
}

// withoutOrigin is the object of an answer but for what is another each time that one is created.
func withoutOrigin(t *testing.T, a answer) map[string]any {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(a.body); err != nil {
		t.Fatal(err)
	}
	u.SetManagedFields(nil)
	u.SetUID("")
	u.SetName("")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	return u.Object
}
