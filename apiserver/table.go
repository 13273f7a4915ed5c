package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// newTable prints items the way `kubectl get` shows them: the server makes the columns, so that every client shows the
// same. https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
func newTable(r *api.Resource, req *http.Request, f format, items []*item, columns bool) (*metav1.Table, error) {
	include := metav1.IncludeObjectPolicy(req.URL.Query().Get("includeObject"))
	t := &metav1.Table{Rows: make([]metav1.TableRow, 0, len(items))}
	t.SetGroupVersionKind(f.kind("Table"))
	if columns {
		t.ColumnDefinitions = r.Columns
	}
	for _, it := range items {
		row := metav1.TableRow{Cells: r.Row(it.obj)}
		switch {
		case include == metav1.IncludeNone && !endsInitialEvents(it):
		case include == metav1.IncludeObject:
			raw, err := it.shown(r).jsonBytes()
			if err != nil {
				return nil, err
			}
			row.Object.Raw = raw
		case include == "", include == metav1.IncludeMetadata, include == metav1.IncludeNone:
			raw, err := json.Marshal(partial(f, it.shown(r)))
			if err != nil {
				return nil, fmt.Errorf("encode the metadata of %s: %w", it.key, err)
			}
			row.Object.Raw = raw
		default:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("unrecognized includeObject value: %q", include))
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

// endsInitialEvents tells the bookmark whose annotation says so. A client must get it, whatever else it wants.
func endsInitialEvents(it *item) bool {
	return it.meta().GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

// partial is an object's metadata alone.
func partial(f format, it *item) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{ObjectMeta: metadata(it.obj)}
	p.SetGroupVersionKind(f.kind("PartialObjectMetadata"))
	return p
}

func partialList(f format, p page) *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{ListMeta: p.meta(), Items: []metav1.PartialObjectMetadata{}}
	list.SetGroupVersionKind(f.kind("PartialObjectMetadataList"))
	for _, it := range p.items {
		list.Items = append(list.Items, *partial(f, it))
	}
	return list
}

// metadata returns an object's ObjectMeta, shared, to be read only.
func metadata(obj runtime.Object) metav1.ObjectMeta {
	if custom, ok := obj.(*unstructured.Unstructured); ok {
		return customMetadata(custom)
	}
	return *obj.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta)
}

func customMetadata(obj *unstructured.Unstructured) metav1.ObjectMeta {
	var meta metav1.ObjectMeta
	tree, _, _ := unstructured.NestedMap(obj.Object, "metadata")
	// Whatever is stored went through this type when it was written, so there is no error.
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(tree, &meta)
	return meta
}

// respondAs answers with obj in the negotiated format.
func respondAs(w http.ResponseWriter, r *http.Request, code int, f format, obj runtime.Object) error {
	var buf bytes.Buffer
	if err := encode(&buf, f.media, wantsPretty(r), obj); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return respondBytes(w, r, f.media, code, buf.Bytes())
}

// respondStatus answers with a Status, which stays one whatever the client would see an object as.
func respondStatus(w http.ResponseWriter, r *http.Request, code int, status *metav1.Status) error {
	f, err := negotiate(r, "Table", "PartialObjectMetadata")
	if err != nil {
		return err
	}
	return respondAs(w, r, code, f, status)
}

// reencode makes YAML, or indented JSON, of JSON that is at hand.
func reencode(f format, body []byte) ([]byte, error) {
	if f.media == typeYAML {
		return yaml.JSONToYAML(body)
	}
	var buf bytes.Buffer
	err := json.Indent(&buf, body, "", "  ")
	return buf.Bytes(), err
}

// serveItem answers with one stored object.
func serveItem(w http.ResponseWriter, r *http.Request, res *api.Resource, code int, it *item) error {
	f, err := negotiateRow(r, res, "Table", "PartialObjectMetadata")
	if err != nil {
		return err
	}
	if f.as == "Table" {
		t, err := newTable(res, r, f, []*item{it}, true)
		if err != nil {
			return err
		}
		t.ResourceVersion = it.meta().GetResourceVersion()
		return respondAs(w, r, code, f, t)
	}
	it = it.shown(res)
	switch {
	case f.as == "PartialObjectMetadata":
		return respondAs(w, r, code, f, partial(f, it))
	case f.media == typeJSON && wantsPretty(r):
		return respond(w, r, code, it.obj)
	}
	body, err := it.encoded(f.media)
	if err != nil {
		return err
	}
	var tail []byte
	if f.media == typeJSON {
		tail = lineEnd
	}
	return respondParts(w, r, f.media, code, body, tail)
}

// lineEnd ends a JSON document, as whoever looks at it in a terminal expects.
var lineEnd = []byte("\n")

// groupNames lists the table's groups, each once, in the table's order.
func groupNames(table []*api.Resource) []string {
	var groups []string
	for _, r := range table {
		if !slices.Contains(groups, r.Group) {
			groups = append(groups, r.Group)
		}
	}
	return groups
}

// groupVersions lists the table's group versions, each once, in the table's order: the first of a group is preferred.
func groupVersions(table []*api.Resource) []schema.GroupVersion {
	var gvs []schema.GroupVersion
	for _, r := range table {
		if gv := r.GroupVersion(); !slices.Contains(gvs, gv) {
			gvs = append(gvs, gv)
		}
	}
	return gvs
}
