package apiserver

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
)

func (s *running) configMap(t testing.TB, name string) *corev1.ConfigMap {
	t.Helper()
	return parse[corev1.ConfigMap](t, s.do(t, "GET", configMapsPath+"/"+name, "").want(t, 200))
}

// Every kind of write says who made it.
func TestManagedFieldsOfAllWriters(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath+"?fieldManager=poster", configMapJSON("a")).want(t, 201)
	for manager, patch := range map[string][]string{
		"merger":     append([]string{`{"data":{"m":"1"}}`}, merge...),
		"strategist": append([]string{`{"data":{"s":"1"}}`}, strategic...),
		"operator":   append([]string{`[{"op":"add","path":"/data/o","value":"1"}]`}, jsonPatch...),
	} {
		s.do(t, "PATCH", configMapA+"?fieldManager="+manager, patch[0], patch[1:]...).want(t, 200)
	}
	cm := s.configMap(t, "a")
	cm.Data["a"] = "2"
	cm.Labels = map[string]string{"l": "1"}
	s.do(t, "PUT", configMapA+"?fieldManager=putter", toJSON(t, cm)).want(t, 200)
	wantOwners(t, s.configMap(t, "a").ObjectMeta,
		`merger Update v1 {"f:data":{"f:m":{}}}`,
		`operator Update v1 {"f:data":{"f:o":{}}}`,
		`poster Update v1 {"f:data":{}}`,
		`putter Update v1 {"f:data":{"f:a":{}},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}`,
		`strategist Update v1 {"f:data":{"f:s":{}}}`)
}

// What Kubernetes derives from what somebody writes is his, too: the other form of a pod's address, the count of a
// DaemonSet's templates, and the labels of a Job that names none.
func TestManagedFieldsOfDerived(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/apis/apps/v1/namespaces/default/daemonsets?fieldManager=poster", `{"metadata":{"name":"a"},"spec":{
		"selector":{"matchLabels":{"app":"a"}},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"a","image":"a"}]}}}}`).want(t, 201)
	set := parse[appsv1.DaemonSet](t, s.do(t, "GET", "/apis/apps/v1/namespaces/default/daemonsets/a", ""))
	if text := owners(set.ObjectMeta); !strings.Contains(text, `"f:deprecated.daemonset.template.generation":{}`) {
		t.Errorf("the template's generation is nobody's:\n%s", text)
	}
	for _, name := range []string{`"name":"b"`, `"generateName":"b-"`} { // A Job without labels has its pods'.
		job := parse[batchv1.Job](t, s.do(t, "POST", "/apis/batch/v1/namespaces/default/jobs?fieldManager=poster", `{"metadata":{`+name+`},"spec":{
			"template":{"metadata":{"labels":{"app":"a"}},"spec":{"restartPolicy":"Never","containers":[{"name":"a","image":"a"}]}}}}`).want(t, 201))
		if text := owners(job.ObjectMeta); !strings.Contains(text, `"f:metadata":{"f:labels":{".":{},"f:app":{}}}`) {
			t.Errorf("the labels are nobody's:\n%s", text)
		}
		if diff := cmp.Diff(job.Spec.Template.Labels, job.Labels); diff != "" || job.Labels[batchv1.JobNameLabel] != job.Name {
			t.Errorf("the Job's labels are %v; against its pods' (-want +got):\n%s", job.Labels, diff)
		}
	}
	s.createPod(t, "a")
	p := parse[corev1.Pod](t, s.do(t, "PATCH", "/api/v1/namespaces/default/pods/a/status?fieldManager=node", `{"status":{"podIP":"10.42.0.7"}}`, merge...).want(t, 200))
	if text := owners(p.ObjectMeta); !strings.Contains(text, `"f:podIPs":{".":{},"k:{\"ip\":\"10.42.0.7\"}":{".":{},"f:ip":{}}}`) {
		t.Errorf("the list of addresses is nobody's:\n%s", text)
	}
}

// Who does not call himself a field manager is called by his User-Agent.
func TestManagedFieldsByUserAgent(t *testing.T) {
	s := start(t)
	for agent, want := range map[string]string{
		"kubectl/v1.37.2 (linux/amd64) kubernetes/abc": "kubectl",
		"agent":                         "agent",
		"be\x80ep":                      "be\ufffdep",
		"/nothing":                      "unknown",
		strings.Repeat("m", 200) + "/1": strings.Repeat("m", 128),
	} {
		cm := parse[corev1.ConfigMap](t, s.do(t, "POST", configMapsPath, configMapJSON("a"), "User-Agent", agent).want(t, 201))
		wantOwners(t, cm.ObjectMeta, want+` Update v1 {"f:data":{".":{},"f:a":{}}}`)
		s.do(t, "DELETE", configMapA, "").want(t, 200)
	}
}

// What the server adds of its own accord is nobody's, what it was told of is.
func TestManagedFieldsOfNewObject(t *testing.T) {
	s := start(t)
	svc := s.createService(t, "web", "")
	if text := owners(svc.ObjectMeta); strings.Contains(text, "clusterIP") || !strings.Contains(text, `"f:sessionAffinity":{}`) {
		t.Errorf("want the default of sessionAffinity owned and the address not:\n%s", text)
	}
	s.do(t, "POST", deployments, strings.Replace(deploymentJSON("web"), `"spec":{`, `"status":{"replicas":3},"spec":{`, 1)).want(t, 201)
	d := parse[appsv1.Deployment](t, s.do(t, "GET", deployments+"/web", ""))
	if text := owners(d.ObjectMeta); strings.Contains(text, "f:status") || strings.Contains(text, "f:uid") {
		t.Errorf("want nothing owned that the writer cannot write:\n%s", text)
	}
}

func TestManagedFieldsOfStatus(t *testing.T) {
	s := start(t)
	p := s.createPod(t, "p")
	p.Status.Message = "hello"
	p.Labels["app"] = "other"
	p.Spec.NodeName = "not here"
	p.ManagedFields = nil
	p = parse[corev1.Pod](t, s.do(t, "PUT", podsPath+"/p/status?fieldManager=agent", toJSON(t, p)).want(t, 200))
	if text := owners(p.ObjectMeta); !strings.HasPrefix(text, `agent Update v1 status {"f:metadata":{"f:labels":{"f:app":{}}},"f:status":{"f:message":{}}}`+"\nunknown Update v1 {") {
		t.Errorf("fields belong to\n%s", text)
	}
	s.do(t, "PATCH", podsPath+"/p/status?fieldManager=agent", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, strategic...).want(t, 200)
	if text := owners(s.pod(t, "p").ObjectMeta); !strings.Contains(text, `"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:message":{}}`) {
		t.Errorf("fields belong to\n%s", text)
	}
}

// Who adds an ephemeral container owns that, and nothing else of the pod that is sent with it.
func TestManagedFieldsOfEphemeralContainers(t *testing.T) {
	s := start(t)
	p := s.createPod(t, "p")
	p.Labels["app"] = "other"
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}}}
	p = parse[corev1.Pod](t, s.do(t, "PUT", podsPath+"/p/ephemeralcontainers?fieldManager=debugger", toJSON(t, p)).want(t, 200))
	got, _, _ := strings.Cut(owners(p.ObjectMeta), "\n")
	if want := `debugger Update v1 ephemeralcontainers {"f:spec":{"f:ephemeralContainers":{".":{},"k:{\"name\":\"debug\"}":{`; !strings.HasPrefix(got, want) || strings.Contains(got, "f:metadata") {
		t.Errorf("fields belong to\n%s\nwant\n%s...", got, want)
	}
}

// Of the status of a request for a certificate the conditions are the approver's, and the certificate is the signer's.
func TestManagedFieldsOfSigningRequest(t *testing.T) {
	s := start(t)
	s.do(t, "POST", signingRequests, toJSON(t, signingRequest(t, "r"))).want(t, 201)
	write := func(manager, sub, body string) string {
		t.Helper()
		a := s.do(t, "PATCH", signingRequests+"/r/"+sub+"?fieldManager="+manager, body, merge...).want(t, 200)
		first, _, _ := strings.Cut(owners(parse[certificatesv1.CertificateSigningRequest](t, a).ObjectMeta), "\n")
		return first
	}
	got := write("b-approver", "approval", `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"}]}}`)
	if want := `b-approver Update certificates.k8s.io/v1 approval {"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Approved\"}":{`; !strings.HasPrefix(got, want) {
		t.Errorf("the approver's fields are\n%s\nwant\n%s...", got, want)
	}
	got = write("a-signer", "status", `{"metadata":{"annotations":{"a":"b"},"labels":{"c":"d"}},"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"},{"type":"Failed","status":"True"}]}}`)
	if want := `a-signer Update certificates.k8s.io/v1 status {"f:metadata":{"f:annotations":{".":{},"f:a":{}},"f:labels":{".":{},"f:c":{}}}}`; got != want {
		t.Errorf("the signer's fields are\n%s\nwant\n%s", got, want)
	}
}

// The replicas of an object and of its Scale are one field.
func TestManagedFieldsOfScale(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments+"?fieldManager=creator", deploymentJSON("web")).want(t, 201)
	path := deployments + "/web"
	owner := func() string {
		t.Helper()
		var found []string
		for _, line := range strings.Split(owners(parse[appsv1.Deployment](t, s.do(t, "GET", path, "")).ObjectMeta), "\n") {
			if strings.Contains(line, `"f:replicas"`) {
				found = append(found, strings.Join(strings.Fields(line)[:4], " "))
			}
		}
		return strings.Join(found, ", ")
	}
	if got := owner(); !strings.HasPrefix(got, "creator Update apps/v1") {
		t.Errorf("replicas are %q's, want the creator's", got)
	}
	s.do(t, "PATCH", path+"/scale?fieldManager=hpa", `{"spec":{"replicas":3}}`, merge...).want(t, 200)
	if got := owner(); got != "hpa Update apps/v1 scale" {
		t.Errorf("replicas are %q's, want hpa's", got)
	}
	scale := parse[autoscalingv1.Scale](t, s.do(t, "GET", path+"/scale", ""))
	scale.Spec.Replicas = 4
	s.do(t, "PUT", path+"/scale?fieldManager=person", toJSON(t, scale)).want(t, 200)
	if got := owner(); got != "person Update apps/v1 scale" {
		t.Errorf("replicas are %q's, want the person's", got)
	}
}

// A write that changes nothing but would change a time is none.
func TestManagedFieldsOfNoChange(t *testing.T) {
	s := start(t)
	cm := s.createConfigMap(t, "a")
	before := cm.ManagedFields[0].Time
	old := metav1.NewTime(before.Add(-time.Hour))
	cm.ManagedFields[0].Time = &old
	if got := parse[corev1.ConfigMap](t, s.do(t, "PUT", configMapA, toJSON(t, cm)).want(t, 200)); got.ResourceVersion != cm.ResourceVersion || !got.ManagedFields[0].Time.Equal(before) {
		t.Errorf("a time alone makes revision %s of %s", got.ResourceVersion, cm.ResourceVersion)
	}
	s.do(t, "PATCH", configMapA+"?fieldManager=other", `{"data":{"a":"1"}}`, merge...).want(t, 200)
	if got := s.configMap(t, "a"); got.ResourceVersion != cm.ResourceVersion {
		t.Errorf("the same value by another writer makes revision %s of %s", got.ResourceVersion, cm.ResourceVersion)
	}
}

// A client may write managed fields itself; what it can't mean leaves them as they are.
func TestManagedFieldsWritten(t *testing.T) {
	s := start(t)
	cm := s.createConfigMap(t, "a")
	cm.ManagedFields[0].Manager = "renamed"
	cm = parse[corev1.ConfigMap](t, s.do(t, "PUT", configMapA, toJSON(t, cm)).want(t, 200))
	wantOwners(t, cm.ObjectMeta, `renamed Update v1 {"f:data":{".":{},"f:a":{}}}`)

	s.do(t, "PATCH", configMapA, `[{"op":"replace","path":"/metadata/managedFields/0/manager","value":"again"}]`, jsonPatch...).want(t, 200)
	const again = `again Update v1 {"f:data":{".":{},"f:a":{}}}`
	wantOwners(t, s.configMap(t, "a").ObjectMeta, again)
	for _, ineffective := range []string{
		`null`, `[{"manager":"x","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV2","fieldsV1":{}}]`,
		`[{"manager":"x","operation":"Other","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{}}]`,
		`[{"manager":"x","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"nonsense":{}}}]`,
	} {
		s.do(t, "PATCH", configMapA, `{"metadata":{"managedFields":`+ineffective+`}}`, merge...).want(t, 200)
		wantOwners(t, s.configMap(t, "a").ObjectMeta, again)
	}
	for _, reset := range []string{`[]`, `[{}]`} {
		s.do(t, "PATCH", configMapA, `{"metadata":{"managedFields":`+reset+`}}`, merge...).want(t, 200)
		if got := s.configMap(t, "a").ManagedFields; len(got) > 0 {
			t.Errorf("after managedFields: %s the fields belong to %v", reset, got)
		}
		s.apply(t, configMapA, "me", "force=true", appliedConfigMap(`a: "`+reset+`"`)).want(t, 200)
	}
	// Through a subresource nobody may.
	p := s.createPod(t, "p")
	before := owners(p.ObjectMeta)
	p.ManagedFields = nil
	s.do(t, "PATCH", podsPath+"/p/status", `{"metadata":{"managedFields":[{}]}}`, merge...).want(t, 200)
	if got := owners(s.pod(t, "p").ObjectMeta); got != before {
		t.Errorf("through status the fields come to belong to\n%s\nwant\n%s", got, before)
	}
}

// kubectl moves an object from client-side to server-side apply by writing its managed fields.
func TestManagedFieldsMigrate(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath+"?fieldManager=kubectl-client-side-apply", configMapJSON("a")).want(t, 201)
	cm := s.configMap(t, "a")
	body, err := csaupgrade.UpgradeManagedFieldsPatch(cm, sets.New("kubectl-client-side-apply"), "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, "PATCH", configMapA, string(body), jsonPatch...).want(t, 200)
	wantOwners(t, s.configMap(t, "a").ObjectMeta, `kubectl Apply v1 {"f:data":{".":{},"f:a":{}}}`)
	s.apply(t, configMapA, "kubectl", "", appliedConfigMap(`b: "1"`)).want(t, 200)
	if got := s.configMap(t, "a"); len(got.Data) != 1 || got.Data["b"] != "1" {
		t.Errorf("data is %v: what kubectl applied before has to go", got.Data)
	}
}

// skiff's own components leave no record of what they create, until somebody applies it.
func TestManagedFieldsOfComponents(t *testing.T) {
	s := start(t)
	component := []string{"User-Agent", "skiff-controller/v0"}
	for _, agent := range []string{"skiff/v0", "skiff-controller"} {
		cm := parse[corev1.ConfigMap](t, s.do(t, "POST", configMapsPath, configMapJSON("a"), "User-Agent", agent).want(t, 201))
		wantOwners(t, cm.ObjectMeta, "")
		s.do(t, "DELETE", configMapA, "").want(t, 200)
	}
	s.do(t, "POST", configMapsPath, configMapJSON("a"), component...).want(t, 201)
	s.do(t, "PATCH", configMapA+"?fieldManager=me", `{"data":{"b":"1"}}`, merge...).want(t, 200)
	wantOwners(t, s.configMap(t, "a").ObjectMeta, "")
	s.apply(t, configMapA, "me", "", appliedConfigMap(`a: "2"`)).refused(t, 409, metav1.StatusReasonConflict, `conflict with "before-first-apply" using v1: .data.a`)
	s.apply(t, configMapA, "me", "", appliedConfigMap(`c: "1"`)).want(t, 200)
	wantOwners(t, s.configMap(t, "a").ObjectMeta, `before-first-apply Update v1 {"f:data":{".":{},"f:a":{},"f:b":{}}}`, `me Apply v1 {"f:data":{"f:c":{}}}`)

	// The objects of others are another matter, and so is a component that says whose the fields are.
	s.createPod(t, "p")
	s.do(t, "PATCH", podsPath+"/p/status", `{"status":{"message":"hello"}}`, append(component, merge...)...).want(t, 200)
	if text := owners(s.pod(t, "p").ObjectMeta); !strings.HasPrefix(text, `skiff-controller Update v1 status {"f:status":{"f:message":{}}}`) {
		t.Errorf("fields belong to\n%s", text)
	}
	named := parse[corev1.ConfigMap](t, s.do(t, "POST", configMapsPath+"?fieldManager=named", configMapJSON("b"), component...).want(t, 201))
	wantOwners(t, named.ObjectMeta, `named Update v1 {"f:data":{".":{},"f:a":{}}}`)
}
