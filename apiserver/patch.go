package apiserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
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
	kjson "sigs.k8s.io/json"
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
	switch {
	case err != nil:
	case h.Custom && p.kind == types.StrategicMergePatchType:
		fit := slices.DeleteFunc(slices.Clone(patchTypes), func(t string) bool { return t == string(p.kind) })
		err = unsupportedMediaType(string(p.kind), fit...)
	case !p.isApply() && !json.Valid(p.body):
		err = apierrors.NewBadRequest("invalid JSON patch")
	}
	p.row = h.Resource
	return p, err
}

// apply makes the patched version of an object, read with the care that the client asked for.
func (p patch) apply(old *item, v *validation) (runtime.Object, error) {
	v.warnings = nil // This may be the second try.
	odd := p.oddities(v)
	if obj, ok := p.patched(old.obj); ok && len(odd) == 0 {
		return obj, nil
	}
	return p.rewritten(old, v, odd)
}

// rewritten makes it out of the object's JSON.
func (p patch) rewritten(old *item, v *validation, odd []error) (runtime.Object, error) {
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
		return nil, p.invalid(after, old.obj, withOddities(odd, bad.why))
	}
	if err != nil || len(odd) == 0 {
		return obj, err
	}
	if v.level == metav1.FieldValidationStrict {
		return nil, p.invalid(after, old.obj, withOddities(odd, nil))
	}
	for i, err := range odd {
		v.warnings = slices.Insert(v.warnings, i, err.Error())
	}
	return obj, nil
}

// shownOfPatch bounds how much of what a patch has made is shown to who sent it.
const shownOfPatch = 8 << 10

// invalid is the error of a patch that makes something of an object that is none of its kind. Kubernetes shows what has become
// of the object; of a strategic merge, which it makes of trees, it shows that of the patch, and why the other is no such object.
func (p patch) invalid(after []byte, old runtime.Object, why error) error {
	text := string(after)
	if p.kind == types.StrategicMergePatchType {
		var patch, tree map[string]any
		if kjson.UnmarshalCaseSensitivePreserveInts(p.body, &patch) == nil {
			text = fmt.Sprintf("%+v", patch)
		}
		if kjson.UnmarshalCaseSensitivePreserveInts(after, &tree) == nil {
			fresh := reflect.New(reflect.TypeOf(old).Elem()).Interface()
			why = cmp.Or(runtime.DefaultUnstructuredConverter.FromUnstructured(tree, fresh), why)
		}
	}
	text = text[:min(len(text), shownOfPatch)]
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), text, why.Error())})
}

func (p patch) document(before []byte, old runtime.Object) ([]byte, error) {
	switch p.kind {
	case types.JSONPatchType:
		return p.operations(before)
	case types.MergePatchType:
		if err := p.noObject(); err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		after, err := jsonpatch.MergePatch(before, p.body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return after, nil
	}
	if err := p.noObject(); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
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

// noObject says what a merge patch is that is no JSON object, nor null.
func (p patch) noObject() error {
	if bytes.HasPrefix(bytes.TrimLeft(p.body, " \t\r\n"), []byte("{")) {
		return nil
	}
	var members map[string]any
	return json.Unmarshal(p.body, &members)
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

func (p patch) operations(before []byte) ([]byte, error) {
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

// inapplicable is the error of a patch that does not fit the object. Kubernetes' message does not say why; the cause does.
func inapplicable(err error) error {
	refused := apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "", 0, false)
	refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Field: "patch", Message: err.Error()}}
	return refused
}
