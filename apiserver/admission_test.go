package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const classesPath = "/apis/scheduling.k8s.io/v1/priorityclasses"

// A pod's priority is that of its class, which is an object; without a class it is that of the default one.
func TestPriority(t *testing.T) {
	s := start(t)
	pod := func(name, class, more string) answer {
		return s.do(t, "POST", podsPath, `{"metadata":{"name":"`+name+`"},"spec":{"priorityClassName":"`+class+`",`+more+`"containers":[{"name":"c","image":"i"}]}}`)
	}
	want := func(a answer, class string, priority int32, policy corev1.PreemptionPolicy) {
		t.Helper()
		got := parse[corev1.Pod](t, a.want(t, 201)).Spec
		if got.PriorityClassName != class || *got.Priority != priority || *got.PreemptionPolicy != policy {
			t.Errorf("class %q, priority %d, %s; want class %q, priority %d, %s",
				got.PriorityClassName, *got.Priority, *got.PreemptionPolicy, class, priority, policy)
		}
	}
	want(pod("a", "", ""), "", 0, corev1.PreemptLowerPriority)
	want(pod("b", "system-node-critical", ""), "system-node-critical", 2000001000, corev1.PreemptLowerPriority)
	pod("c", "mine", "").refused(t, 403, metav1.StatusReasonForbidden, "no PriorityClass with name mine was found")

	s.do(t, "POST", classesPath, `{"metadata":{"name":"mine"},"value":7,"preemptionPolicy":"Never"}`).want(t, 201)
	s.do(t, "POST", classesPath, `{"metadata":{"name":"usual"},"value":3,"globalDefault":true}`).want(t, 201)
	s.do(t, "POST", classesPath, `{"metadata":{"name":"other"},"value":4,"globalDefault":true}`).refused(t, 403, metav1.StatusReasonForbidden,
		"PriorityClass usual is already marked as default. Only one default can exist")
	want(pod("c", "mine", ""), "mine", 7, corev1.PreemptNever)
	want(pod("d", "", ""), "usual", 3, corev1.PreemptLowerPriority)
	pod("e", "mine", `"priority":8,`).refused(t, 403, metav1.StatusReasonForbidden, "the integer value of priority (8) must not be provided in pod spec")
	pod("e", "mine", `"preemptionPolicy":"PreemptLowerPriority",`).refused(t, 403, metav1.StatusReasonForbidden, "the string value of PreemptionPolicy")

	got := parse[schedulingv1.PriorityClass](t, s.do(t, "PATCH", classesPath+"/mine", `{"description":"d"}`, "Content-Type", "application/merge-patch+json").want(t, 200))
	if got.Value != 7 || got.Description != "d" || got.Generation != 1 {
		t.Errorf("after a new description the class is %+v", got)
	}
}

// The classes that every cluster has stay.
func TestSystemPriorityClassesStay(t *testing.T) {
	s := start(t)
	for _, name := range []string{"system-node-critical", "system-cluster-critical"} {
		s.do(t, "DELETE", classesPath+"/"+name, "").refused(t, 403, metav1.StatusReasonForbidden, "this is a system priority class and cannot be deleted")
	}
	s.do(t, "POST", classesPath, `{"metadata":{"name":"mine"},"value":7}`).want(t, 201)
	s.do(t, "DELETE", classesPath, "").want(t, 403)
	s.do(t, "DELETE", classesPath+"/mine", "")
	s.do(t, "GET", classesPath+"/mine", "").want(t, 404)
	s.do(t, "GET", classesPath+"/system-node-critical", "").want(t, 200)
}

// A pod cannot be somebody whom there is not.
func TestPodOfMissingAccount(t *testing.T) {
	s := start(t)
	pod := `{"metadata":{"name":"p"},"spec":{"serviceAccountName":"robot","containers":[{"name":"c","image":"i"}]}}`
	s.do(t, "POST", podsPath, pod).refused(t, 403, metav1.StatusReasonForbidden,
		`pods "p" is forbidden: error looking up service account default/robot: serviceaccount "robot" not found`)
	s.do(t, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"}}`).want(t, 201)
	s.do(t, "POST", podsPath, pod).want(t, 201)
}

// A claim and an ingress that name no class get the default one, if there is one then; the newest of several.
func TestDefaultClasses(t *testing.T) {
	s := start(t)
	const claims, ingresses = "/api/v1/namespaces/default/persistentvolumeclaims", "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
	claim := func(name, more string) *string {
		a := s.do(t, "POST", claims, `{"metadata":{"name":"`+name+`"},"spec":{`+more+`"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`)
		return parse[corev1.PersistentVolumeClaim](t, a.want(t, 201)).Spec.StorageClassName
	}
	ingress := func(name, annotations string) *string {
		a := s.do(t, "POST", ingresses, `{"metadata":{"name":"`+name+`","annotations":{`+annotations+`}},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}`)
		return parse[networkingv1.Ingress](t, a.want(t, 201)).Spec.IngressClassName
	}
	check := func(what string, got *string, want string) {
		t.Helper()
		if ptrOr(got, "none") != want {
			t.Errorf("%s: class %s, want %s", what, ptrOr(got, "none"), want)
		}
	}
	check("a claim of a new cluster", claim("new", ""), "local")
	s.do(t, "DELETE", "/apis/storage.k8s.io/v1/storageclasses/local", "").want(t, 200)
	check("a claim where there is no class", claim("a", ""), "none")
	check("an ingress where there is no class", ingress("a", ""), "none")
	for name, isDefault := range map[string]string{"plain": "false", "usual": "true"} {
		s.do(t, "POST", "/apis/storage.k8s.io/v1/storageclasses", `{"provisioner":"p","metadata":{"name":"`+name+
			`","annotations":{"storageclass.kubernetes.io/is-default-class":"`+isDefault+`"}}}`).want(t, 201)
	}
	s.do(t, "POST", "/apis/networking.k8s.io/v1/ingressclasses", `{"spec":{"controller":"a.b/c"},"metadata":{"name":"nginx","annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}}}`).want(t, 201)
	check("a claim", claim("b", ""), "usual")
	check("a claim that names a class", claim("c", `"storageClassName":"plain",`), "plain")
	check("a claim that wants no class", claim("d", `"storageClassName":"",`), "")
	check("an ingress", ingress("b", ""), "nginx")
	check("an ingress that has the old annotation", ingress("c", `"kubernetes.io/ingress.class":"x"`), "none")
}

const signingRequests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

// signingRequest is one that says it is somebody else's.
func signingRequest(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	ask := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ask.Spec = certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: "example.com/user",
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, Username: "somebody", Groups: []string{"kings"},
	}
	return ask
}

// A request for a certificate says who made it, whatever it says itself, and is decided once.
func TestCertificateRequest(t *testing.T) {
	s := start(t)
	const all = signingRequests
	got := parse[certificatesv1.CertificateSigningRequest](t, s.do(t, "POST", all, toJSON(t, signingRequest(t, "r"))).want(t, 201))
	if got.Spec.Username != administrator.Name || len(got.Spec.Groups) != 1 || got.Spec.Groups[0] != administrators {
		t.Errorf("the request is said to be of %s in %v", got.Spec.Username, got.Spec.Groups)
	}
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}
	got.Status.Conditions = append(got.Status.Conditions, approved)
	s.do(t, "PUT", all+"/r/status", toJSON(t, got)).refused(t, 422, metav1.StatusReasonInvalid, `updates may not add a condition of type "Approved"`)
	s.do(t, "PUT", all+"/r", toJSON(t, got)).want(t, 200)
	if now := parse[certificatesv1.CertificateSigningRequest](t, s.do(t, "GET", all+"/r", "")); len(now.Status.Conditions) > 0 {
		t.Errorf("a change of the object has approved it: %+v", now.Status)
	}
	s.do(t, "PUT", all+"/r/approval", toJSON(t, got)).want(t, 200)
	now := parse[certificatesv1.CertificateSigningRequest](t, s.do(t, "GET", all+"/r/approval", "").want(t, 200))
	if c := now.Status.Conditions; len(c) != 1 || c[0].LastUpdateTime.IsZero() || c[0].LastTransitionTime.IsZero() {
		t.Errorf("once approved the request says %+v", c)
	}
	now.Status.Conditions = nil
	s.do(t, "PUT", all+"/r/approval", toJSON(t, now)).refused(t, 422, metav1.StatusReasonInvalid, `updates may not remove a condition of type "Approved"`)
}

// Who replaces a pod by his own manifest need not repeat what the server added to it.
func TestReplacePodByItsManifest(t *testing.T) {
	s := start(t)
	manifest := `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"n":"1"}},
		"spec":{"serviceAccountName":"default","containers":[{"name":"c","image":"i"}]}}`
	made := parse[corev1.Pod](t, s.do(t, "POST", podsPath, manifest).want(t, 201))
	next := parse[corev1.Pod](t, s.do(t, "PUT", podsPath+"/p", strings.Replace(manifest, `"1"`, `"2"`, 1)).want(t, 200))
	if next.Labels["n"] != "2" {
		t.Errorf("labels are %v", next.Labels)
	}
	if diff := cmp.Diff(made.Spec, next.Spec); diff != "" {
		t.Errorf("the spec changed (-before +after):\n%s", diff)
	}
}

// A pod that names no secrets for pulling images gets those of its ServiceAccount.
func TestPullSecrets(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"},"imagePullSecrets":[{"name":"login"},{"name":"other"}]}`).want(t, 201)
	for _, tc := range []struct{ name, more, want string }{
		{"robots", `"serviceAccountName":"robot",`, "login other"},
		{"own", `"serviceAccountName":"robot","imagePullSecrets":[{"name":"mine"}],`, "mine"},
		{"nobodys", "", ""},
	} {
		made := s.do(t, "POST", podsPath, `{"metadata":{"name":"`+tc.name+`"},"spec":{`+tc.more+`"containers":[{"name":"c","image":"i"}]}}`).want(t, 201)
		var names []string
		for _, ref := range parse[corev1.Pod](t, made).Spec.ImagePullSecrets {
			names = append(names, ref.Name)
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("pod %s has the secrets %q, want %q", tc.name, got, tc.want)
		}
	}
}

// A new node gets no pods before it is known to be ready, also where it names taints itself.
func TestNewNodeIsTainted(t *testing.T) {
	s := start(t)
	const own, notReady = `{"key":"a","effect":"NoSchedule"}`, `{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}`
	for taints, want := range map[string]string{
		"":       notReady,
		own:      own + "," + notReady,
		notReady: notReady,
		`{"key":"node.kubernetes.io/not-ready","effect":"NoExecute"}`: `{"key":"node.kubernetes.io/not-ready","effect":"NoExecute"},` + notReady,
	} {
		node := parse[corev1.Node](t, s.do(t, "POST", "/api/v1/nodes?dryRun=All", `{"metadata":{"name":"a"},"spec":{"taints":[`+taints+`]}}`).want(t, 201))
		if got := toJSON(t, node.Spec.Taints); got != "["+want+"]" {
			t.Errorf("of taints [%s]: %s, want [%s]", taints, got, want)
		}
	}
}

// Who makes a VolumeAttributesClass gets one that stays while it is in use.
func TestNewAttributesClassIsProtected(t *testing.T) {
	s := start(t)
	a := s.do(t, "POST", "/apis/storage.k8s.io/v1/volumeattributesclasses", `{"metadata":{"name":"a"},"driverName":"d","parameters":{"a":"b"}}`).want(t, 201)
	if diff := cmp.Diff([]string{"kubernetes.io/vac-protection"}, parse[metav1.PartialObjectMetadata](t, a).Finalizers); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
}
