package api

import (
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func configMap() *Resource {
	return row(Resource{
		Version: "v1", Name: "configmaps", Singular: "configmap", Kind: "ConfigMap", ShortNames: []string{"cm"},
		Namespaced: true,
		Verbs:      allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn(),
		},
	}, rules[corev1.ConfigMap]{
		Default:        func(c *corev1.ConfigMap) { fillBytes(c.BinaryData) },
		Validate:       validateConfigMap,
		ValidateUpdate: validateConfigMapUpdate,
		Row: func(c *corev1.ConfigMap) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp.Time)}
		},
	})
}

// maxDataSize bounds the values of a ConfigMap or a Secret together, in bytes.
const maxDataSize = 1 << 20

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	errs, size := validateKeys(data, c.Data)
	binaryErrs, binarySize := validateKeys(binary, c.BinaryData)
	errs = append(errs, binaryErrs...)
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(data.Key(key), key, "duplicate of key present in binaryData"))
		}
	}
	if size+binarySize > maxDataSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataSize))
	}
	return errs
}

// validateKeys checks keys, which become names of files, and returns the size of the values together.
func validateKeys[V string | []byte](path *field.Path, data map[string]V) (errs field.ErrorList, size int) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		errs = append(errs, invalid(path.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(data[key])
	}
	return errs, size
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	if !deref(old.Immutable) {
		return nil
	}
	errs := stillImmutable(c.Immutable)
	errs = append(errs, unchanged("data", c.Data, old.Data)...)
	return append(errs, unchanged("binaryData", c.BinaryData, old.BinaryData)...)
}

func stillImmutable(now *bool) field.ErrorList {
	if deref(now) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set")}
}

func unchanged[V string | []byte](name string, now, old map[string]V) field.ErrorList {
	if len(now) == 0 && len(old) == 0 || reflect.DeepEqual(now, old) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath(name), "field is immutable when `immutable` is set")}
}
