package apiserver

import (
	"fmt"
	"mime"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// objectReader reads an object out of a request's body, with the care that the client asked for.
type objectReader func(body []byte, contentType string, v *validation) (runtime.Object, error)

// readerOf reads objects of a row: those with a Go type by its scheme, custom resources as trees.
func readerOf(r *api.Resource) objectReader {
	return func(body []byte, contentType string, v *validation) (runtime.Object, error) {
		if r.Custom {
			return decodeCustom(body, contentType, r, v)
		}
		return decode(body, contentType, r.GroupVersionKind(), v)
	}
}

// decodeCustom reads a custom resource: a tree, less what its schema does not have, and with the schema's defaults.
func decodeCustom(body []byte, contentType string, r *api.Resource, v *validation) (runtime.Object, error) {
	want := r.GroupVersionKind()
	data, strict, err := customJSON(body, contentType, v.level != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, err
	}
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	twice, err := kjson.UnmarshalStrict(data, &obj.Object)
	if err != nil {
		return nil, decodeError(want, err)
	}
	if obj.Object == nil {
		return nil, decodeError(want, fmt.Errorf("it is null"))
	}
	if err := boundMembers(body, obj.Object); err != nil {
		return nil, err
	}
	unknown, err := r.Prune(obj)
	if err != nil {
		return nil, decodeError(want, err)
	}
	if err := sameCustomKind(obj, want, data); err != nil {
		return nil, err
	}
	for _, path := range unknown {
		twice = append(twice, fmt.Errorf("unknown field %q", path))
	}
	if strict = append(strict, twice...); len(strict) > 0 {
		if err := v.judge(want, runtime.NewStrictDecodingError(strict)); err != nil {
			return nil, err
		}
	}
	if r.View == nil {
		r.Default(obj)
	}
	return obj, nil
}

// sameCustomKind wants a custom resource to say that it is one of the path's: no scheme knows what another is.
func sameCustomKind(obj *unstructured.Unstructured, want schema.GroupVersionKind, data []byte) error {
	switch got := obj.GroupVersionKind(); {
	case got.Kind == "":
		why := runtime.NewMissingKindErr(string(data))
		return &undecodable{apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, why, beginning(data))), why}
	case got.GroupVersion() != want.GroupVersion():
		why := fmt.Errorf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion())
		return &undecodable{apierrors.NewBadRequest(why.Error()), why}
	case got.Kind != want.Kind:
		return apierrors.NewInvalid(got.GroupKind(), obj.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("kind"), got.Kind, "must be "+want.Kind),
		})
	}
	return nil
}

// beginning is so much of a document as an error has room for.
func beginning(data []byte) string {
	const room = 30
	if len(data) > room {
		return string(data[:room]) + " ..."
	}
	return string(data)
}

// customJSON is a body as JSON. Of YAML it also says what a strict reader has against it.
func customJSON(body []byte, contentType string, strictly bool) (data []byte, strict []error, err error) {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case contentType == "", err == nil && media == typeJSON:
		return body, nil, nil
	case err != nil, media != typeYAML:
		return nil, nil, unsupportedMediaType(contentType, typeJSON, typeYAML)
	}
	if data, err = yaml.YAMLToJSON(body); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if strictly {
		if _, err := yaml.YAMLToJSONStrict(body); err != nil {
			strict = append(strict, err)
		}
	}
	return data, strict, nil
}
