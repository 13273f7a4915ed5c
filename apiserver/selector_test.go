package apiserver

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// fieldsOf are the fields that Kubernetes lets each kind be selected by, besides the metadata's.
var fieldsOf = map[string][]string{
	"/api/v1/pods": {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
	"/api/v1/events": {"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
		"involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"},
	"/apis/events.k8s.io/v1/events": {"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
		"regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type"},
	"/api/v1/namespaces":             {"status.phase"},
	"/api/v1/nodes":                  {"spec.unschedulable"},
	"/api/v1/replicationcontrollers": {"status.replicas"},
	"/api/v1/secrets":                {"type"},
	"/api/v1/services":               {"spec.clusterIP", "spec.type"},
	"/apis/apps/v1/replicasets":      nil,
	"/apis/batch/v1/jobs":            {"status.successful"},
	"/apis/certificates.k8s.io/v1/certificatesigningrequests": {"spec.signerName"},
	"/api/v1/configmaps":                     nil,
	"/api/v1/persistentvolumes":              nil,
	"/apis/apps/v1/deployments":              nil,
	"/apis/storage.k8s.io/v1/storageclasses": nil,
}

// Each kind is selected by the fields that Kubernetes has for it, and refuses all others in Kubernetes' words.
func TestFieldsOfEachKind(t *testing.T) {
	s := start(t)
	for path, names := range fieldsOf {
		all := append([]string{"metadata.name"}, names...)
		if path != "/api/v1/namespaces" && path != "/api/v1/nodes" && !strings.Contains(path, "signing") {
			all = append(all, "metadata.namespace")
		}
		for _, name := range all {
			s.do(t, "GET", path+"?fieldSelector="+name+"%3Dx", "").want(t, 200)
			s.do(t, "GET", path+"?fieldSelector="+name+"%21%3Dx", "").want(t, 200)
		}
		want := "field label not supported: spec.other"
		switch {
		case names == nil:
			want = `"spec.other" is not a known field selector: only "metadata.name", "metadata.namespace"`
		case strings.HasSuffix(path, "/jobs"):
			want = `field label "spec.other" not supported for Job`
		}
		s.do(t, "GET", path+"?fieldSelector=spec.other%3Dx", "").refused(t, 400, metav1.StatusReasonBadRequest, want)
	}
	s.do(t, "GET", "/api/v1/namespaces?fieldSelector=name%3Dx", "").refused(t, 400, metav1.StatusReasonBadRequest, "field label not supported: name")
}

// What a client may not combine is refused by field, as in Kubernetes.
func TestListOptionsThatContradict(t *testing.T) {
	s := start(t)
	for query, want := range map[string]string{
		"resourceVersionMatch=Exact":                                     "resourceVersionMatch is forbidden unless resourceVersion is provided",
		"resourceVersionMatch=Exact&resourceVersion=0":                   `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`,
		"resourceVersionMatch=Some&resourceVersion=1":                    `resourceVersionMatch: Unsupported value: "Some": supported values: "Exact", "NotOlderThan", ""`,
		"resourceVersionMatch=Exact&resourceVersion=1&continue=x":        "resourceVersionMatch is forbidden when continue is provided",
		"watch=true&continue=x":                                          "resourceVersionMatch is forbidden when continue is provided",
		"sendInitialEvents=true":                                         "sendInitialEvents is forbidden for list",
		"watch=true&sendInitialEvents=true":                              "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
		"watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1": "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
	} {
		s.do(t, "GET", podsPath+"?"+query, "").refused(t, 422, metav1.StatusReasonInvalid, want)
	}
	for query, want := range map[string]string{
		"continue=x&resourceVersion=1": "invalid continue token: continue key is not valid",
		"continue=%25":                 "continue key is not valid",
		"resourceVersion=x":            `invalid resource version: resourceVersion: Invalid value: "x"`,
		"labelSelector=%21%21":         "unable to parse requirement",
		"fieldSelector=a":              "invalid selector",
	} {
		s.do(t, "GET", podsPath+"?"+query, "").refused(t, 400, metav1.StatusReasonBadRequest, want)
	}
	s.do(t, "GET", podsPath+"/p?resourceVersion=x", "").refused(t, 500, metav1.StatusReasonUnknown, `resourceVersion: Invalid value: "x"`)
}

// The count of what remains is exact, and not told where a selector leaves it open.
func TestRemainingItemCount(t *testing.T) {
	s := start(t)
	for i := range 5 {
		s.createConfigMap(t, fmt.Sprintf("m%d", i))
	}
	for query, want := range map[string]string{
		"limit=2": `"remainingItemCount":3`, "limit=4": `"remainingItemCount":1`, "limit=5": "", "limit=2&labelSelector=%21a": "",
		"limit=2&fieldSelector=metadata.name%21%3Dx": "", "limit=2&labelSelector=&fieldSelector=": `"remainingItemCount":3`,
	} {
		body := string(s.do(t, "GET", configMapsPath+"?"+query, "").want(t, 200).body)
		if has := strings.Contains(body, "remainingItemCount"); has != (want != "") || !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %q", query, body[:min(len(body), 300)], want)
		}
	}
}

// A selector costs its requirements times the objects: that is bounded, for lists and watches alike.
func TestSelectorsAreBounded(t *testing.T) {
	s := start(t)
	p := s.createPod(t, "p")
	sh := s.shelf("pods")
	sh.mu.Lock()
	for i := range 9_999 {
		sh.tree.ReplaceOrInsert(&item{key: fmt.Sprintf("other/p%d", i), obj: p})
	}
	sh.mu.Unlock()
	var required []string
	for i := range maxAsked/10_000 + 1 {
		required = append(required, fmt.Sprintf("x%d!=a", i))
	}
	for _, path := range []string{podsPath + "?", "/api/v1/pods?watch=1&"} {
		s.do(t, "GET", path+"fieldSelector=status.phase%3DPending&labelSelector="+url.QueryEscape(strings.Join(required[1:], ",")), "").refused(
			t, 400, metav1.StatusReasonBadRequest, "the selectors have 2001 requirements, of 10000 objects the allowed maximum is 2000")
	}
	if found := parse[metav1.PartialObjectMetadataList](t, s.do(t, "GET", podsPath+"?labelSelector="+url.QueryEscape(strings.Join(required[1:], ",")), "").want(t, 200)); len(found.Items) != 1 {
		t.Errorf("2000 requirements, which the pod fits, bring %d pods", len(found.Items))
	}
}

// No selector, however it is written, makes the server fail: it is understood or refused, and what comes is what the
// selector says.
func FuzzSelectors(f *testing.F) {
	s := start(f)
	for i, label := range []string{"a", "b", ""} {
		s.do(f, "POST", podsPath, strings.Replace(podJSON(fmt.Sprintf("p%d", i)), `"app":"web"`, `"app":"`+label+`"`, 1)).want(f, 201)
	}
	for _, seed := range [][2]string{
		{"app=a", "metadata.name=p0"}, {"app in (a,b),!x", "status.phase!=Running"}, {"app notin ()", `metadata.name=a\,b`}, {"x>1", "a==b"}, {"!", ",,"},
		{"app=a,app!=a", "spec.nodeName="}, {"\x00", "\\"}, {"a/b/c=d", "metadata.name=p0,metadata.name=p1"}, {"((", "="},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, label, field string) {
		query := url.Values{"labelSelector": {label}, "fieldSelector": {field}}
		a := s.do(t, "GET", podsPath+"?"+query.Encode(), "")
		if a.code != 200 {
			a.refused(t, 400, metav1.StatusReasonBadRequest)
			return
		}
		byLabel, err := labels.Parse(label)
		if err != nil {
			t.Fatalf("%q was understood: %v", label, err)
		}
		byField, err := fields.ParseSelector(field)
		if err != nil {
			t.Fatalf("%q was understood: %v", field, err)
		}
		var want, got []string
		for _, it := range s.shelf("pods").state(s.cache).items(selectAll(s.shelf("pods").resource)) {
			pod := it.obj.(*corev1.Pod)
			set := fields.Set{
				"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": "", "spec.restartPolicy": "Always", "spec.schedulerName": "default-scheduler",
				"spec.serviceAccountName": "default", "spec.hostNetwork": "false", "status.phase": "Pending", "status.podIP": "", "status.podIPs": "", "status.nominatedNodeName": "",
			}
			if byLabel.Matches(labels.Set(pod.Labels)) && byField.Matches(set) {
				want = append(want, pod.Name)
			}
		}
		for _, p := range parse[metav1.PartialObjectMetadataList](t, a).Items {
			got = append(got, p.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q and %q bring (-want +got):\n%s", label, field, diff)
		}
	})
}

// A token that the server did not make is refused, or told to begin anew with one that it did make; never is anything shown
// that lies outside the namespace.
func FuzzContinue(f *testing.F) {
	s := start(f)
	for i := range 3 {
		s.createConfigMap(f, fmt.Sprintf("m%d", i))
	}
	s.do(f, "POST", "/api/v1/namespaces/kube-system/configmaps", configMapJSON("other")).want(f, 201)
	first := parse[metav1.PartialObjectMetadataList](f, s.do(f, "GET", configMapsPath+"?limit=1", "").want(f, 200))
	for _, seed := range []string{first.Continue, "", "e30", "x", continueToken{1, "kube-system/"}.String(), continueToken{1 << 63, "\xff"}.String(),
		continueToken{0, ""}.String(), `{"rv":1}`, "bnVsbA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		a := s.do(t, "GET", configMapsPath+"?limit=1&continue="+url.QueryEscape(token), "")
		switch a.code {
		case 200:
			sent, _ := parseContinue(token) // It is one: it was taken. (None is for the beginning.)
			next := ""
			for _, name := range []string{"m0", "m1", "m2"} {
				if key := "default/" + name; next == "" && key >= sent.Start {
					next = name
				}
			}
			got := ""
			for _, m := range parse[metav1.PartialObjectMetadataList](t, a).Items {
				got += m.Name
				if m.Namespace != "default" {
					t.Errorf("%q shows %s/%s", token, m.Namespace, m.Name)
				}
			}
			if got != next {
				t.Errorf("%q goes on with %q, want %q", token, got, next)
			}
		case 410:
			if status := parse[metav1.Status](t, a); status.Continue == "" || status.Reason != metav1.StatusReasonExpired {
				t.Errorf("%q: %s", token, a.body)
			}
		default:
			a.refused(t, 400, metav1.StatusReasonBadRequest)
		}
	})
}
