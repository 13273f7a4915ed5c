package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applyappsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	applyautoscalingv1 "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
)

// apply makes a server-side apply. query is what comes after the manager: "force=true".
func (s *running) apply(t testing.TB, path, manager, query, body string) answer {
	t.Helper()
	return s.do(t, "PATCH", path+"?fieldManager="+manager+"&"+query, body, "Content-Type", string(types.ApplyYAMLPatchType))
}

// appliedConfigMap is what somebody wants of the ConfigMap "a".
func appliedConfigMap(data string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  " + strings.ReplaceAll(data, "\n", "\n  ")
}

const configMapA = configMapsPath + "/a"

// owners are an object's managed fields, one a line, in a fixed order: "kubectl Update apps/v1 scale {...}".
func owners(m metav1.ObjectMeta) string {
	var lines []string
	for _, e := range m.ManagedFields {
		lines = append(lines, strings.Join(strings.Fields(fmt.Sprintln(e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsV1)), " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wantOwners(t testing.TB, m metav1.ObjectMeta, want ...string) {
	t.Helper()
	if got := owners(m); got != strings.Join(want, "\n") {
		t.Errorf("the fields belong to\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestApplyCreates(t *testing.T) {
	s := start(t)
	cm := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "me", "", appliedConfigMap(`x: "1"`)).want(t, 201))
	wantOwners(t, cm.ObjectMeta, `me Apply v1 {"f:data":{"f:x":{}}}`)
	if cm.Namespace != "default" || cm.Data["x"] != "1" || cm.UID == "" || cm.CreationTimestamp.IsZero() || cm.ManagedFields[0].Time.IsZero() {
		t.Errorf("created %+v", cm)
	}
	for name, c := range map[string]struct {
		path, query, body string
		code              int
		reason            metav1.StatusReason
		message           string
	}{
		"dry run":            {"/dry", "dryRun=All", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"dry"}}`, 201, "", ""},
		"another name":       {"/b", "", appliedConfigMap(`x: "1"`), 400, metav1.StatusReasonBadRequest, "the name of the object (a) does not match the name on the URL (b)"},
		"no name":            {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap"}`, 400, metav1.StatusReasonBadRequest, "the name of the object (b based on URL) was undeterminable: name must be provided"},
		"another namespace":  {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","namespace":"other"}}`, 400, metav1.StatusReasonBadRequest, "the namespace of the provided object does not match the namespace sent on the request"},
		"another kind":       {"/b", "", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"}}`, 400, metav1.StatusReasonBadRequest, "invalid object type: /v1, Kind=Secret"},
		"no kind":            {"/b", "", `{"metadata":{"name":"b"}}`, 400, metav1.StatusReasonBadRequest, "invalid object type: /, Kind="},
		"a uid":              {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","uid":"u"}}`, 409, metav1.StatusReasonConflict, "uid mismatch: the provided object specified uid u, and no existing object was found"},
		"a resourceVersion":  {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","resourceVersion":"1"}}`, 400, metav1.StatusReasonBadRequest, "resourceVersion should not be set on objects to be created"},
		"managed fields":     {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","managedFields":[]}}`, 400, metav1.StatusReasonBadRequest, "metadata.managedFields must be nil"},
		"an unknown field":   {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"},"dada":{}}`, 500, metav1.StatusReasonUnknown, "failed to create typed patch object (/b; /v1, Kind=ConfigMap): .dada: field not declared in schema"},
		"a wrong type":       {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"},"data":[]}`, 500, metav1.StatusReasonUnknown, ".data: expected map, got &{[]}"},
		"no YAML":            {"/b", "", "{", 400, metav1.StatusReasonBadRequest, "error decoding patch: "},
		"nothing":            {"/b", "", "", 400, metav1.StatusReasonBadRequest, "invalid object type"},
		"an invalid object":  {"/b", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"},"data":{"&":""}}`, 422, metav1.StatusReasonInvalid, "data[&]: Invalid value"},
		"a key twice":        {"/b", "fieldValidation=Strict", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: \"1\", x: \"2\"}", 400, metav1.StatusReasonBadRequest, `error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:` + "\n" + `  line 4: key "x" already set in map`},
		"an unknown level":   {"/b", "fieldValidation=Strikt", appliedConfigMap(""), 422, metav1.StatusReasonInvalid, "fieldValidation: Unsupported value"},
		"a long manager":     {"/b", "fieldManager=", appliedConfigMap(""), 422, metav1.StatusReasonInvalid, "fieldManager: Too long: may not be more than 128 bytes"},
		"a manager in beeps": {"/b", "fieldManager=", appliedConfigMap(""), 422, metav1.StatusReasonInvalid, "fieldManager: Invalid value: \"\\a\": invalid character U+0007 (at position 0)"},
	} {
		t.Run(name, func(t *testing.T) {
			manager := "me"
			switch name {
			case "a long manager":
				manager = strings.Repeat("m", 129)
			case "a manager in beeps":
				manager = "%07"
			}
			a := s.apply(t, configMapsPath+c.path, manager, c.query, c.body)
			if c.code < 300 {
				a.want(t, c.code)
			} else {
				a.refused(t, c.code, c.reason, c.message)
			}
			s.do(t, "GET", configMapsPath+c.path, "").want(t, 404)
		})
	}
}

func TestApplyNeedsManager(t *testing.T) {
	s := start(t)
	media := []string{"Content-Type", string(types.ApplyYAMLPatchType)}
	s.do(t, "PATCH", configMapA, appliedConfigMap(""), media...).
		refused(t, 422, metav1.StatusReasonInvalid, `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`)
	s.createConfigMap(t, "a")
	s.do(t, "PATCH", configMapA+"?force=true", `{}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, `PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch`)
	for _, media := range []string{"application/apply-patch+json", string(types.ApplyCBORPatchType)} {
		s.do(t, "PATCH", configMapA+"?fieldManager=me", `{}`, "Content-Type", media).
			refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "accepted media types include:", "application/apply-patch+yaml")
	}
}

func TestApplyChangesOnlyItsOwn(t *testing.T) {
	s := start(t)
	s.apply(t, configMapA, "me", "", appliedConfigMap("x: \"1\"\nw: \"1\"")).want(t, 201)
	first := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "you", "", appliedConfigMap(`z: "1"`)).want(t, 200))
	wantOwners(t, first.ObjectMeta, `me Apply v1 {"f:data":{"f:w":{},"f:x":{}}}`, `you Apply v1 {"f:data":{"f:z":{}}}`)

	again := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "you", "", appliedConfigMap(`z: "1"`)).want(t, 200))
	if again.ResourceVersion != first.ResourceVersion {
		t.Errorf("the same again makes revision %s of %s", again.ResourceVersion, first.ResourceVersion)
	}
	// What an applier names no more goes, if it is no one else's.
	less := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "me", "", appliedConfigMap("x: \"2\"\nz: \"1\"")).want(t, 200))
	wantOwners(t, less.ObjectMeta, `me Apply v1 {"f:data":{"f:x":{},"f:z":{}}}`, `you Apply v1 {"f:data":{"f:z":{}}}`)
	if len(less.Data) != 2 || less.Data["x"] != "2" || less.Data["z"] != "1" {
		t.Errorf("data is %v, want x 2 and z 1", less.Data)
	}
	shared := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "me", "", appliedConfigMap(`x: "2"`)).want(t, 200))
	if shared.Data["z"] != "1" {
		t.Errorf("z, which another applier still wants, is gone: %v", shared.Data)
	}
}

func TestApplyConflict(t *testing.T) {
	s := start(t)
	s.apply(t, configMapA, "me", "", appliedConfigMap("x: \"1\"\nw: \"1\"")).want(t, 201)
	s.do(t, "PATCH", configMapA+"?fieldManager=editor", `{"data":{"w":"2"}}`, merge...).want(t, 200)
	a := s.apply(t, configMapA, "you", "", appliedConfigMap("x: \"2\"\nw: \"3\""))
	a.refused(t, 409, metav1.StatusReasonConflict, "Apply failed with 2 conflicts: conflicts with \"editor\" using v1:\n- .data.w\nconflicts with \"me\":\n- .data.x")
	causes := parse[metav1.Status](t, a).Details.Causes
	slices.SortFunc(causes, func(a, b metav1.StatusCause) int { return strings.Compare(a.Field, b.Field) })
	if len(causes) != 2 || causes[0] != (metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "editor" using v1`, Field: ".data.w"}) ||
		causes[1] != (metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "me"`, Field: ".data.x"}) {
		t.Errorf("causes are %+v", causes)
	}
	s.apply(t, configMapA, "you", "dryRun=All", appliedConfigMap(`x: "2"`)).refused(t, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "me": .data.x`)
	s.apply(t, configMapA, "you", "force=false", appliedConfigMap(`x: "2"`)).refused(t, 409, metav1.StatusReasonConflict)
	forced := parse[corev1.ConfigMap](t, s.apply(t, configMapA, "you", "force=true", appliedConfigMap(`x: "2"`)).want(t, 200))
	wantOwners(t, forced.ObjectMeta, `editor Update v1 {"f:data":{"f:w":{}}}`, `you Apply v1 {"f:data":{"f:x":{}}}`)
	if forced.Data["x"] != "2" || forced.Data["w"] != "2" {
		t.Errorf("data is %v, want 2 and 2", forced.Data)
	}
}

func TestApplyOnCondition(t *testing.T) {
	s := start(t)
	cm := s.createConfigMap(t, "a")
	with := func(meta string) answer {
		return s.apply(t, configMapA, "me", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a",`+meta+`},"data":{"k":"1"}}`)
	}
	with(`"resourceVersion":"1"`).refused(t, 409, metav1.StatusReasonConflict, "the object has been modified")
	with(`"uid":"another"`).refused(t, 422, metav1.StatusReasonInvalid, `metadata.uid: Invalid value: "another": field is immutable`)
	with(`"resourceVersion":"`+cm.ResourceVersion+`","uid":"`+string(cm.UID)+`"`).want(t, 200)
	with(`"uid":"`+string(cm.UID)+`"`).want(t, 200)
	with(`"managedFields":[{}]`).refused(t, 400, metav1.StatusReasonBadRequest, "metadata.managedFields must be nil")
	a := s.apply(t, configMapA, "me", "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: \"1\", k: \"2\"}").want(t, 200)
	if got := a.header.Get("Warning"); !strings.Contains(got, `key \"k\" already set in map`) {
		t.Errorf("the warning about a key that stands twice is %q", got)
	}
}

// Lists are merged by the keys that their type has.
func TestApplyMergesLists(t *testing.T) {
	s := start(t)
	container := func(name, image string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"app":"web"}},
			"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"` + name + `","image":"` + image + `"}]}}}}`
	}
	s.apply(t, deployments+"/web", "me", "", container("a", "one")).want(t, 201)
	d := parse[appsv1.Deployment](t, s.apply(t, deployments+"/web", "you", "", container("b", "two")).want(t, 200))
	if c := d.Spec.Template.Spec.Containers; len(c) != 2 || c[0].Name != "a" || c[1].Name != "b" {
		t.Errorf("containers are %v, want those of both", c)
	}
	wantOwners(t, d.ObjectMeta,
		`me Apply apps/v1 {"f:spec":{"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`,
		`you Apply apps/v1 {"f:spec":{"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"b\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`)
	s.apply(t, deployments+"/web", "you", "", container("a", "three")).refused(t, 409, metav1.StatusReasonConflict,
		`Apply failed with 1 conflict: conflict with "me": .spec.template.spec.containers[name="a"].image`)
}

func TestApplyOfSubresources(t *testing.T) {
	s := start(t)
	path := deployments + "/web"
	status := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"paused":true},"status":{"replicas":2}}`
	scale := func(n string) string {
		return `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":` + n + `}}`
	}
	s.apply(t, path+"/status", "me", "", status).refused(t, 404, metav1.StatusReasonNotFound, `deployments.apps "web" not found`)
	s.apply(t, path+"/scale", "me", "", scale("1")).refused(t, 404, metav1.StatusReasonNotFound, `deployments.apps "web" not found`)
	replicas := strings.Replace(deploymentJSON("web"), `"spec":{`, `"spec":{"replicas":1,`, 1)
	s.apply(t, path, "me", "", replicas).want(t, 201)

	d := parse[appsv1.Deployment](t, s.apply(t, path+"/status", "controller", "", status).want(t, 200))
	const mine = `"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
	wantOwners(t, d.ObjectMeta, `controller Apply apps/v1 status {"f:status":{"f:replicas":{}}}`, `me Apply apps/v1 {"f:spec":{"f:replicas":{},`+mine)
	if d.Spec.Paused || d.Status.Replicas != 2 {
		t.Errorf("paused %v with %d replicas, want only the status written", d.Spec.Paused, d.Status.Replicas)
	}
	s.apply(t, path+"/scale", "hpa", "", scale("5")).refused(t, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "me": .spec.replicas`)
	s.apply(t, path+"/scale", "hpa", "", scale("-5")+"#").refused(t, 409, metav1.StatusReasonConflict)
	s.apply(t, path+"/scale", "hpa", "force=true", scale("-5")).refused(t, 422, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -5")
	got := parse[autoscalingv1.Scale](t, s.apply(t, path+"/scale", "hpa", "force=true", scale("5")).want(t, 200))
	if got.Spec.Replicas != 5 || got.ManagedFields != nil {
		t.Errorf("scale is %+v", got)
	}
	d = parse[appsv1.Deployment](t, s.do(t, "GET", path, ""))
	wantOwners(t, d.ObjectMeta, `controller Apply apps/v1 status {"f:status":{"f:replicas":{}}}`, `hpa Apply apps/v1 scale {"f:spec":{"f:replicas":{}}}`, `me Apply apps/v1 {"f:spec":{`+mine)
	s.apply(t, path, "me", "", replicas).refused(t, 409, metav1.StatusReasonConflict, `conflict with "hpa" with subresource "scale": .spec.replicas`)
}

// Whoever applies while another creates or deletes comes through.
func TestApplyRaces(t *testing.T) {
	s := start(t)
	done := make(chan error)
	client := s.client(t, administrator, typeJSON).CoreV1().ConfigMaps("default")
	const writers = 8
	for i := range writers {
		go func() {
			me := fmt.Sprint("writer", i)
			for range 20 {
				_, err := client.Apply(context.Background(), applycorev1.ConfigMap("a", "default").WithData(map[string]string{me: "1"}), metav1.ApplyOptions{FieldManager: me})
				if err == nil && i == 0 {
					if err = client.Delete(context.Background(), "a", metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
						err = nil
					}
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// client-go's own types of what is applied.
func TestApplyByClientGo(t *testing.T) {
	s := start(t)
	for _, media := range []string{typeJSON, typeProto} {
		c := s.client(t, administrator, media).AppsV1().Deployments("default")
		ctx, me := context.Background(), metav1.ApplyOptions{FieldManager: "operator"}
		want := applyappsv1.Deployment("web", "default").WithSpec(applyappsv1.DeploymentSpec().
			WithSelector(applymetav1.LabelSelector().WithMatchLabels(map[string]string{"app": "web"})).
			WithTemplate(applycorev1.PodTemplateSpec().WithLabels(map[string]string{"app": "web"}).
				WithSpec(applycorev1.PodSpec().WithContainers(applycorev1.Container().WithName("c").WithImage("nginx")))))
		d, err := c.Apply(ctx, want, me)
		if err != nil {
			t.Fatal(err)
		}
		extracted, err := applyappsv1.ExtractDeployment(d, "operator")
		if err != nil || toJSON(t, extracted) != toJSON(t, want) {
			t.Errorf("what it owns is %s, error %v; want what it applied: %s", toJSON(t, extracted), err, toJSON(t, want))
		}
		d, err = c.ApplyStatus(ctx, applyappsv1.Deployment("web", "default").WithStatus(applyappsv1.DeploymentStatus().WithReplicas(3)), me)
		if err != nil || d.Status.Replicas != 3 {
			t.Errorf("after ApplyStatus there are %d replicas, error %v", d.Status.Replicas, err)
		}
		scale, err := c.ApplyScale(ctx, "web", applyautoscalingv1.Scale().WithName("web").WithNamespace("default").WithSpec(applyautoscalingv1.ScaleSpec().WithReplicas(4)), metav1.ApplyOptions{FieldManager: "hpa", Force: true})
		if err != nil || scale.Spec.Replicas != 4 {
			t.Errorf("after ApplyScale it is %+v, error %v", scale, err)
		}
		if err := c.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A node may not create by an apply what it may not create.
func TestApplyAsNode(t *testing.T) {
	s := start(t)
	body := `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}}`
	s.doAs(t, nodeUser, "PATCH", "/api/v1/nodes/n2?fieldManager=me", body, "Content-Type", string(types.ApplyYAMLPatchType)).
		refused(t, 403, metav1.StatusReasonForbidden)
	s.do(t, "GET", "/api/v1/nodes/n2", "").want(t, 404)
}

// An object that has two forms may be applied in both: a field of the one is the same field of the other.
func TestApplyOfAView(t *testing.T) {
	s := start(t)
	v1 := func(target string) string {
		return `{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"a"},"spec":{"maxReplicas":` + target + `,"scaleTargetRef":{"kind":"Deployment","name":"web","apiVersion":"apps/v1"}}}`
	}
	v2 := func(target string) string { return strings.Replace(v1(target), "autoscaling/v1", "autoscaling/v2", 1) }
	s.apply(t, autoscalersV1+"/a", "me", "", v1("3")).want(t, 201)
	s.apply(t, autoscalersV2+"/a", "you", "", v2("4")).refused(t, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "me": .spec.maxReplicas`)
	s.apply(t, autoscalersV2+"/a", "you", "force=true", v2("4")).want(t, 200)
	s.apply(t, autoscalersV1+"/a", "me", "", v1("3")).refused(t, 409, metav1.StatusReasonConflict, `conflict with "you": .spec.maxReplicas`)
	s.do(t, "PATCH", autoscalersV1+"/a?fieldManager=patcher", `{"spec":{"minReplicas":2}}`, merge...).want(t, 200)
	got := parse[autoscalingv1.HorizontalPodAutoscaler](t, s.do(t, "GET", autoscalersV1+"/a", "").want(t, 200))
	wantOwners(t, got.ObjectMeta, `me Apply autoscaling/v1 {"f:spec":{"f:scaleTargetRef":{}}}`, `patcher Update autoscaling/v1 {"f:spec":{"f:minReplicas":{}}}`,
		`you Apply autoscaling/v2 {"f:spec":{"f:maxReplicas":{},"f:scaleTargetRef":{"f:apiVersion":{},"f:kind":{},"f:name":{}}}}`)
	event := `{"apiVersion":"events.k8s.io/v1","kind":"Event",` + newEventJSON("e")[len(`{"kind":"Event","apiVersion":"events.k8s.io/v1",`):]
	s.apply(t, newEvents+"/e", "me", "", event).want(t, 201)
	s.do(t, "PATCH", oldEvents+"/e?fieldManager=you", `{"metadata":{"labels":{"l":"1"}}}`, merge...).want(t, 200)
	s.apply(t, newEvents+"/e", "me", "", event).want(t, 200)
}
