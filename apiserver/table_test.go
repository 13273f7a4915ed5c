package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"skiff/api"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metadataclient "k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

const acceptTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"

func TestTable(t *testing.T) {
	s := start(t)
	p := s.createPod(t, "p")
	for _, path := range []string{podsPath, podsPath + "/p"} {
		table := parse[metav1.Table](t, s.do(t, "GET", path, "", "Accept", acceptTable).want(t, 200))
		var columns []string
		for _, c := range table.ColumnDefinitions {
			if c.Priority == 0 {
				columns = append(columns, c.Name)
			}
		}
		if diff := cmp.Diff([]string{"Name", "Ready", "Status", "Restarts", "Age"}, columns); diff != "" {
			t.Errorf("%s: columns (-want +got):\n%s", path, diff)
		}
		if len(table.Rows) != 1 || table.Kind != "Table" || table.ResourceVersion == "" {
			t.Fatalf("%s: %+v, want a Table with one row and a revision", path, table)
		}
		if diff := cmp.Diff([]any{"p", "0/1", "Pending"}, table.Rows[0].Cells[:3]); diff != "" {
			t.Errorf("%s: cells (-want +got):\n%s", path, diff)
		}
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(table.Rows[0].Object.Raw, &object); err != nil || object.Kind != "PartialObjectMetadata" || object.UID != p.UID {
			t.Errorf("%s: a row's object is %s, error %v; want its metadata", path, table.Rows[0].Object.Raw, err)
		}
	}
	row := func(include string) string {
		a := s.do(t, "GET", podsPath+"?includeObject="+include, "", "Accept", acceptTable).want(t, 200)
		return string(parse[metav1.Table](t, a).Rows[0].Object.Raw)
	}
	if got := row("None"); got != "null" && got != "" {
		t.Errorf("includeObject=None: %s", got)
	}
	var full corev1.Pod
	if err := json.Unmarshal([]byte(row("Object")), &full); err != nil || full.Spec.Containers[0].Image != "nginx" {
		t.Errorf("includeObject=Object: %+v, %v", full, err)
	}
	old := s.do(t, "GET", podsPath, "", "Accept", "application/json;as=Table;v=v1beta1;g=meta.k8s.io").want(t, 200)
	if table := parse[metav1.Table](t, old); table.APIVersion != "meta.k8s.io/v1beta1" || !strings.Contains(string(table.Rows[0].Object.Raw), `"apiVersion":"meta.k8s.io/v1beta1"`) {
		t.Errorf("who wants v1beta1 gets %s", old.body)
	}
	s.do(t, "GET", podsPath+"?includeObject=Some", "", "Accept", acceptTable).refused(t, 400, metav1.StatusReasonBadRequest, `unrecognized includeObject value: "Some"`)
	s.do(t, "POST", podsPath, podJSON("q"), "Accept", acceptTable).want(t, 201)
	s.do(t, "GET", podsPath, "", "Accept", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io").refused(t, 406, metav1.StatusReasonNotAcceptable)
}

// Every row of the table prints as many cells as it has columns, for an object without anything too.
func TestEveryKindHasATable(t *testing.T) {
	for _, r := range api.Table() {
		if r.Review {
			continue // There is nothing to list.
		}
		if len(r.Columns) == 0 || len(r.Row(r.Stored().New())) != len(r.Columns) {
			t.Errorf("%s: %d columns, %d cells", r.Kind, len(r.Columns), len(r.Row(r.Stored().New())))
		}
	}
}

// A bookmark in a Table is a row of an object that has nothing but a revision. It can be printed, and says where the initial
// events end whatever is to be included.
func TestBookmarksInTables(t *testing.T) {
	s := start(t)
	for _, r := range s.table {
		if !r.Keeps() {
			continue
		}
		for _, include := range []string{"", "None", "Metadata", "Object"} {
			req := httptest.NewRequest("GET", "/?includeObject="+include, nil)
			marked := &item{rev: 7, obj: bookmarkObject(r, 7, true)}
			table, err := newTable(r, req, format{media: typeJSON, as: "Table", asOf: "v1"}, []*item{marked}, false)
			if err != nil || len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(r.Columns) {
				t.Errorf("%s, include %q: %+v, error %v; want one row of %d cells", r.Name, include, table, err, len(r.Columns))
				continue
			}
			if object := string(table.Rows[0].Object.Raw); !strings.Contains(object, `"`+metav1.InitialEventsAnnotationKey+`":"true"`) || !strings.Contains(object, `"resourceVersion":"7"`) {
				t.Errorf("%s, include %q: the row's object is %s", r.Name, include, object)
			}
		}
	}
}

// Every kind with a scale says how many replicas it has, and can be told.
func TestEveryScaleScales(t *testing.T) {
	for _, r := range api.Table() {
		if _, ok := r.Sub("scale"); !ok {
			continue
		}
		obj := r.New()
		r.SetReplicas(obj, 7)
		if got := r.Scale(obj).Wanted; got != 7 {
			t.Errorf("%s: %d replicas after setting 7", r.Kind, got)
		}
	}
}

// Every kind has what the server takes for granted: metadata, and a protobuf form.
func TestEveryKindCanBeStored(t *testing.T) {
	for _, r := range api.Table() {
		r = r.Stored()
		obj := r.New()
		setRevision(obj, 5)
		if _, ok := obj.(metav1.ObjectMetaAccessor); !ok {
			t.Errorf("%s has no metadata", r.Kind)
		}
		data, err := marshalStored(obj)
		if err != nil {
			t.Errorf("%s: %v", r.Kind, err)
			continue
		}
		back, _, err := new(alike).unmarshalStored(r, data)
		if err != nil || back.GetObjectKind().GroupVersionKind() != r.GroupVersionKind() || metaOf(back).GetResourceVersion() != "" {
			t.Errorf("%s comes back as %+v, error %v", r.Kind, back, err)
		}
	}
}

// Clients that want metadata alone (garbage collectors, metadata informers) get it, in JSON and in protobuf.
func TestMetadataOnly(t *testing.T) {
	s := start(t)
	p := s.createPod(t, "p")
	for _, media := range []string{typeJSON, typeProto} {
		c, err := metadataclient.NewForConfig(&rest.Config{Host: "http://memory", Transport: s.Transport(administrator), ContentConfig: rest.ContentConfig{AcceptContentTypes: media}})
		if err != nil {
			t.Fatal(err)
		}
		pods := c.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace("default")
		list, err := pods.List(context.Background(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].UID != p.UID {
			t.Errorf("%s: list is %+v, error %v", media, list, err)
		}
		one, err := pods.Get(context.Background(), "p", metav1.GetOptions{})
		if err != nil || one.UID != p.UID {
			t.Errorf("%s: object is %+v, error %v", media, one, err)
		}
		w, err := pods.Watch(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ev := <-w.ResultChan(); ev.Object.(*metav1.PartialObjectMetadata).UID != p.UID {
			t.Errorf("%s: event is %+v", media, ev)
		}
		w.Stop()
	}
}

// What is read is the same in every form.
func TestFormsAgree(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	byJSON, err := s.client(t, administrator, typeJSON).CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byProto, err := s.client(t, administrator, typeProto).CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byJSON, byProto); diff != "" {
		t.Errorf("the list in JSON and in protobuf (-JSON +protobuf):\n%s", diff)
	}
	pretty := s.do(t, "GET", podsPath+"?pretty=true", "").want(t, 200)
	plain := s.do(t, "GET", podsPath, "").want(t, 200)
	var compact bytes.Buffer
	if err := json.Compact(&compact, pretty.body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(bytes.TrimSpace(plain.body)), compact.String()); diff != "" || len(pretty.body) <= len(plain.body) {
		t.Errorf("pretty and plain (-plain +pretty):\n%s", diff)
	}
}
