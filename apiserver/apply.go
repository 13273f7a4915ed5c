package apiserver

import (
	"fmt"
	"net/http"

	"github.com/go-chi/chi/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
)

// Server-side apply: a PATCH that says what its writer wants an object to be like, which need not be there yet.
// https://kubernetes.io/docs/reference/using-api/server-side-apply/

// applyPatch brings an apply to an object, or to its part named by sub. Where there is no object, it is created.
func (h *resource) applyPatch(w http.ResponseWriter, r *http.Request, sub string, o write, p patch) error {
	changed := func() error { return h.applyToStored(w, r, sub, o, p) }
	if sub != "" {
		return changed()
	}
	return h.createOrChange(r, func() error { return h.applyToNothing(w, r, sub, o, p) }, changed)
}

func (h *resource) applyToStored(w http.ResponseWriter, r *http.Request, sub string, o write, p patch) error {
	return h.change(w, r, sub, o, h.patched(r, sub, o, p))
}

func (h *resource) applyToNothing(w http.ResponseWriter, r *http.Request, sub string, o write, p patch) error {
	name := chi.URLParam(r, "name")
	if err := h.authorizeCreate(r); err != nil {
		return err
	}
	obj, err := h.applied(nothing(h.Resource), sub, o, p)
	if err != nil {
		return err
	}
	m := metaOf(obj)
	if uid := m.GetUID(); uid != "" {
		return apierrors.NewConflict(h.GroupResource(), name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if err := sameName(r, obj); err != nil {
		return err
	}
	return h.create(w, r, obj, o)
}

// applied is old with what the patch says of it.
func (h *resource) applied(old runtime.Object, sub string, o write, p patch) (runtime.Object, error) {
	config, err := p.config()
	if err != nil {
		return nil, err
	}
	obj, err := h.owners.applied(old, config, sub, o.writer, o.force)
	if err != nil {
		return nil, err
	}
	o.validation.warnings = nil // This may be the second try.
	return obj, p.twice(o.validation)
}

// config is the body of an apply: YAML, of which JSON, that programs send, is read the quick way.
func (p patch) config() (*unstructured.Unstructured, error) {
	config := &unstructured.Unstructured{Object: map[string]any{}}
	if kjson.UnmarshalCaseSensitivePreserveInts(p.body, &config.Object) == nil {
		return config, boundMembers(p.body, config.Object)
	}
	config.Object = map[string]any{}
	if err := yaml.Unmarshal(p.body, &config.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	return config, boundMembers(p.body, config.Object)
}

// twice finds keys that stand twice in the body of an apply. Those that the kind does not know are refused in any case.
func (p patch) twice(v *validation) error {
	if v.level == metav1.FieldValidationIgnore {
		return nil
	}
	if twice, err := kjson.UnmarshalStrict(p.body, &map[string]any{}); err == nil && len(twice) == 0 {
		return nil
	}
	err := yaml.UnmarshalStrict(p.body, &map[string]any{})
	switch {
	case err == nil:
		return nil
	case v.level == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
	}
	v.warnings = append(v.warnings, lines(err)...)
	return nil
}

// isApply tells an apply from the patches that say what is to be changed.
func (p patch) isApply() bool { return p.kind == types.ApplyYAMLPatchType }
