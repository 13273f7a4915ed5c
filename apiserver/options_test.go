package apiserver

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deletecollection deletes what a list with the same parameters shows: a page with limit, and the next with its token.
func TestDeleteCollectionInPages(t *testing.T) {
	s := start(t)
	for i := range 7 {
		s.do(t, "POST", configMapsPath, fmt.Sprintf(`{"metadata":{"name":"c%d","labels":{"odd":"%t"}}}`, i, i%2 == 1)).want(t, 201)
	}
	left := func(want string) {
		t.Helper()
		list := parse[corev1.ConfigMapList](t, s.do(t, "GET", configMapsPath, "").want(t, 200))
		var have []string
		for _, c := range list.Items {
			have = append(have, c.Name)
		}
		if got := strings.Join(have, " "); got != want {
			t.Errorf("what is left is %s, want %s", got, want)
		}
	}
	first := parse[corev1.ConfigMapList](t, s.do(t, "DELETE", configMapsPath+"?limit=2", "").want(t, 200))
	if len(first.Items) != 2 || first.Continue == "" || *first.RemainingItemCount != 5 {
		t.Errorf("the first page has %d items, token %q", len(first.Items), first.Continue)
	}
	left("c2 c3 c4 c5 c6")
	s.do(t, "DELETE", configMapsPath+"?limit=1&continue="+first.Continue, "").want(t, 200)
	left("c3 c4 c5 c6")
	s.do(t, "DELETE", configMapsPath+"?labelSelector=odd%3Dtrue&dryRun=All", "").want(t, 200)
	left("c3 c4 c5 c6")
	s.do(t, "DELETE", configMapsPath+"?labelSelector=odd%3Dtrue", "").want(t, 200)
	left("c4 c6")
	old := parse[corev1.ConfigMap](t, s.do(t, "GET", configMapsPath+"/c4", "").want(t, 200)).ResourceVersion
	s.do(t, "DELETE", configMapsPath+"?resourceVersion="+old+"&resourceVersionMatch=NotOlderThan", `{}`).want(t, 200) // Without a body it would be a precondition of each, too.
	left("")
	s.do(t, "DELETE", configMapsPath+"?resourceVersionMatch=Exact", "").refused(t, 422, metav1.StatusReasonInvalid, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
	s.do(t, "DELETE", configMapsPath+"?continue=x", "").refused(t, 400, metav1.StatusReasonBadRequest, "continue key is not valid")
}

// A patch may name the object's UID and no other.
func TestPatchUID(t *testing.T) {
	s := start(t)
	c := s.createConfigMap(t, "a")
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"uid":"`+string(c.UID)+`"},"data":{"a":"2"}}`, merge...).want(t, 200)
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"uid":"another"}}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, `ConfigMap "a" is invalid: metadata.uid: Invalid value: "another": field is immutable`)
	s.apply(t, configMapsPath+"/a", "me", "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"another"}}`).
		refused(t, 422, metav1.StatusReasonInvalid, `metadata.uid: Invalid value: "another": field is immutable`)
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"uid":"another","resourceVersion":"1"}}`, merge...).refused(t, 409, metav1.StatusReasonConflict, "the object has been modified")
	c.UID = "another"
	c.ResourceVersion = ""
	s.do(t, "PUT", configMapsPath+"/a", toJSON(t, c)).refused(t, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: another")
}

// Who creates an object under a name that is being given up is told so.
func TestCreateWhileDeleted(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"a","finalizers":["skiff.test/hold"]}}`).want(t, 201)
	s.do(t, "POST", configMapsPath, configMapJSON("a")).refused(t, 409, metav1.StatusReasonAlreadyExists, `configmaps "a" already exists`)
	s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200)
	s.do(t, "POST", configMapsPath, configMapJSON("a")).refused(t, 409, metav1.StatusReasonAlreadyExists, `object is being deleted: configmaps "a" already exists`)
}

// Who asks for a cascade in the old way learns that it is under way.
func TestDeleteAccepted(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"a","finalizers":["skiff.test/hold"]}}`).want(t, 201)
	s.do(t, "DELETE", configMapsPath+"/a", `{"orphanDependents":false}`).want(t, 202)
	s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200)
	s.do(t, "DELETE", configMapsPath+"/a", `{"orphanDependents":false,"propagationPolicy":"Background"}`).
		refused(t, 422, metav1.StatusReasonInvalid, "orphanDependents and deletionPropagation cannot be both set")
}
