package apiserver

import (
	"encoding/binary"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// bodyPaths are where bodies of different kinds are taken.
var bodyPaths = []string{
	configMapsPath, podsPath, servicesPath, deployments, definitionsPath, "/apis/batch/v1/namespaces/default/cronjobs",
	"/apis/networking.k8s.io/v1/namespaces/default/ingresses", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
	"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", podsPath + "/p/binding",
}

// bodyTypes are what bodies come as; from the third on they are patches.
var bodyTypes = []string{
	typeJSON, typeYAML, typeProto,
	"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml",
}

// FuzzBody promises that no body makes the server fail: it is taken, or the client is told what is wrong with it.
func FuzzBody(f *testing.F) {
	for i, body := range []string{
		configMapJSON("a"), podJSON("p"), `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`, deploymentJSON("d"),
		`{"metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"things","kind":"Thing"},
			"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"integer","default":1}}}}}]}}`,
		`{"metadata":{"name":"c"},"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}`,
		`{"metadata":{"name":"i"},"spec":{"rules":[{"http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"s","port":{"number":80}}}}]}}]}}`,
		`{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"d"}}}`,
		`{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`,
		`{"target":{"kind":"Node","name":"n1"}}`,
	} {
		f.Add(byte(i), byte(0), []byte(body))
		f.Add(byte(i), byte(1), []byte(body))
		f.Add(byte(i), byte(5), []byte(body))
		f.Add(byte(i), byte(6), []byte(body))
	}
	f.Add(byte(0), byte(1), []byte("metadata: &m {name: a}\ndata: {a: &a x, b: *a}\n<<: *m\n"))
	f.Add(byte(0), byte(3), []byte(`[{"op":"copy","from":"/data","path":"/metadata/labels"},{"op":"test","path":"/data/a","value":"1"}]`))
	f.Add(byte(1), byte(5), []byte(`{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["a"]}}`))
	for i, obj := range []runtime.Object{
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: map[string]string{"a": "1"}},
		&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
	} {
		f.Add(byte(i), byte(2), []byte(toProto(f, obj)))
	}
	f.Add(byte(4), byte(2), []byte(nestedSchema(f, 50)))

	s := start(f)
	s.createPod(f, "a")
	s.createConfigMap(f, "a")
	f.Fuzz(func(t *testing.T, path, media byte, body []byte) {
		method, to := "POST", bodyPaths[int(path)%len(bodyPaths)]
		contentType := bodyTypes[int(media)%len(bodyTypes)]
		if strings.Contains(contentType, "patch") {
			method, to = "PATCH", to+"/a"
		}
		a := s.do(t, method, to+"?dryRun=All&fieldManager=fuzz", string(body), "Content-Type", contentType)
		if isFailure(t, contentType, a) {
			t.Errorf("%s %s: %d %s", method, to, a.code, a.body)
		}
	})
}

// isFailure tells an answer that says that the server failed. An apply of what is not of the kind's form gets such a code too, as
// from Kubernetes, but without a reason.
func isFailure(t *testing.T, contentType string, a answer) bool {
	if a.code < http.StatusInternalServerError {
		return false
	}
	return contentType != string(types.ApplyYAMLPatchType) || parse[metav1.Status](t, a).Reason != metav1.StatusReasonUnknown
}

// nestedSchema is a CustomResourceDefinition in protobuf whose schema says "not" to "not" to "not" and so on.
func nestedSchema(t testing.TB, levels int) string {
	t.Helper()
	const not = 28<<3 | 2 // Field and wire type of JSONSchemaProps.Not.
	var pieces [][]byte
	size := 0
	for range levels {
		head := binary.AppendUvarint(binary.AppendUvarint(nil, not), uint64(size))
		pieces = append(pieces, head)
		size += len(head)
	}
	schema := make([]byte, 0, size)
	for i := len(pieces) - 1; i >= 0; i-- {
		schema = append(schema, pieces[i]...)
	}
	version := appendField(nil, 4, appendField(nil, 1, schema))
	raw, err := envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", appendField(nil, 2, appendField(nil, 7, version)))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
