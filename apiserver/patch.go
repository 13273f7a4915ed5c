package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"sync"

	"skiff/api"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxPatchOperations bounds what one JSON patch may do, as Kubernetes bounds it.
const maxPatchOperations = 10000

// boundCopies bounds how much a JSON patch may make a document grow by copying. The library has one bound for all.
var boundCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxBody })

// patch is a change of an object's JSON, of one of the kinds of
// https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply
type patch struct {
	kind types.PatchType
	body []byte
	row  *api.Resource // Of the object.
}

var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

func readPatch(r *http.Request) (patch, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(patchTypes, media) {
		return patch{}, unsupportedMediaType(r.Header.Get("Content-Type"), patchTypes...)
	}
	body, err := readBody(r)
	return patch{kind: types.PatchType(media), body: body}, err
}

// readPatch reads a patch of the row's objects, or of their scale. Of a custom resource nothing tells how to merge its lists
// strategically.
func (h *resource) readPatch(r *http.Request) (patch, error) {
	p, err := readPatch(r)
	if err == nil && h.Custom && p.kind == types.StrategicMergePatchType {
		fit := slices.DeleteFunc(slices.Clone(patchTypes), func(t string) bool { return t == string(p.kind) })
		err = unsupportedMediaType(string(p.kind), fit...)
	}
	p.row = h.Resource
	return p, err
}

// apply makes the patched version of an object, read with the care that the client asked for.
func (p patch) apply(old *item, v *validation) (runtime.Object, error) {
	v.warnings = nil // This may be the second try.
	if obj, ok := p.patched(old.obj); ok {
		return obj, nil
	}
	return p.rewritten(old, v)
}

// rewritten makes it out of the object's JSON.
func (p patch) rewritten(old *item, v *validation) (runtime.Object, error) {
	before, err := old.jsonBytes()
	if err != nil {
		return nil, err
	}
	after, err := p.document(before, old.obj)
	if err != nil {
		return nil, err
	}
	var obj runtime.Object
	if _, ok := old.obj.(*unstructured.Unstructured); ok {
		obj, err = decodeCustom(after, typeJSON, p.row, v)
	} else {
		obj, err = decode(after, typeJSON, old.obj.GetObjectKind().GroupVersionKind(), v)
	}
	if bad := (*undecodable)(nil); errors.As(err, &bad) {
		err = p.invalid(after, bad.why)
	}
	return obj, err
}

// shownOfPatch bounds how much of what a patch has made is shown to who sent it.
const shownOfPatch = 8 << 10

// invalid is the error of a patch that makes something of an object that is none of its kind. Kubernetes shows what has become
// of the object, or, of a strategic merge, the patch.
func (p patch) invalid(after []byte, why error) error {
	shown := after
	if p.kind == types.StrategicMergePatchType {
		shown = p.body
	}
	text := string(shown[:min(len(shown), shownOfPatch)])
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), text, why.Error())})
}

func (p patch) document(before []byte, old runtime.Object) ([]byte, error) {
	switch p.kind {
	case types.JSONPatchType:
		return p.operations(before)
	case types.MergePatchType:
		if !json.Valid(p.body) {
			return nil, errNoJSON()
		}
		if !bytes.HasPrefix(bytes.TrimLeft(p.body, " \t\r\n"), []byte("{")) {
			var members map[string]any
			if err := json.Unmarshal(p.body, &members); err != nil { // It is no object, nor null.
				return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
			}
		}
		after, err := jsonpatch.MergePatch(before, p.body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return after, nil
	}
	if err := boundMerge(before, p.body); err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, withoutKind(p.body), old)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return after, nil
}

// withoutKind takes the kind from a strategic merge patch: the path says of what kind the object is, whatever the patch says.
func withoutKind(body []byte) []byte {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return body // The merge says what is wrong.
	}
	said := len(members)
	for _, name := range []string{"kind", "apiVersion"} {
		if raw, ok := members[name]; ok && (raw[0] == '"' || raw[0] == 'n') {
			delete(members, name)
		}
	}
	if len(members) == said {
		return body
	}
	rest, err := json.Marshal(members)
	if err != nil {
		return body
	}
	return rest
}

func errNoJSON() error { return apierrors.NewBadRequest("invalid JSON patch") }

func (p patch) operations(before []byte) ([]byte, error) {
	if !json.Valid(p.body) {
		return nil, errNoJSON()
	}
	ops, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
	}
	if len(ops) > maxPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(ops)))
	}
	if err := boundOperations(before, p.body, len(ops)); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(ops, replacesAllByNothing) {
		return nil, inapplicable(errors.New("an operation on the whole document has no value"))
	}
	boundCopies()
	after, err := ops.Apply(before)
	if err != nil {
		return nil, inapplicable(err)
	}
	return after, nil
}

// replacesAllByNothing finds operations that the library takes to be impossible, and panics at.
func replacesAllByNothing(op jsonpatch.Operation) bool {
	path, err := op.Path()
	return err == nil && path == "" && op["value"] == nil && (op.Kind() == "replace" || op.Kind() == "test")
}

// inapplicable is the error of a patch that does not fit the object.
func inapplicable(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: err.Error(),
	}}
}
