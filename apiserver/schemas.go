package apiserver

import (
	"encoding/json"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// schemas are the types of the API, as server-side apply needs to know them: which lists are sets or maps, and by which
// keys. They come from the OpenAPI definitions when the first write needs them.
type schemas func() (converter, error)

// newSchemas reads them from what define gives. The scheme tells which type has which definition; without one, that stands in
// the definitions.
func newSchemas(define func() (map[string]json.RawMessage, error), scheme *runtime.Scheme) schemas {
	return sync.OnceValues(func() (converter, error) {
		definitions, err := define()
		if err != nil {
			return converter{}, err
		}
		models := make(map[string]*spec.Schema, len(definitions))
		for name, text := range definitions {
			models[name] = &spec.Schema{}
			if err := json.Unmarshal(text, models[name]); err != nil {
				return converter{}, fmt.Errorf("read the OpenAPI definition of %s: %w", name, err)
			}
		}
		if scheme == nil {
			types, err := managedfields.NewTypeConverter(models, false)
			return converter{TypeConverter: types}, err
		}
		types, err := schemaconv.ToSchemaFromOpenAPI(models, false)
		if err != nil {
			return converter{}, fmt.Errorf("read the OpenAPI definitions: %w", err)
		}
		parser := &typed.Parser{}
		parser.Schema.Types = types.Types
		return converter{managedfields.NewSchemeTypeConverter(scheme, parser), scheme, parser, &knownSets{}}, nil
	})
}

// converter tells objects of the API in the terms of server-side apply. Those of custom kinds have neither scheme nor parser.
type converter struct {
	managedfields.TypeConverter
	scheme *runtime.Scheme
	parser *typed.Parser
	known  *knownSets
}

// ObjectToTyped does not check an object of a Go type against the schema, which was made from that type, where nothing is to
// be merged into it: that would be more than half the cost of a record. (Options are given for what is only compared.)
func (c converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if _, tree := obj.(*unstructured.Unstructured); tree || len(opts) == 0 {
		return c.TypeConverter.ObjectToTyped(obj, opts...)
	}
	t, err := c.typeOf(obj)
	if err != nil {
		return nil, err
	}
	v, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, err
	}
	return typed.AsTypedUnvalidated(v, t.Schema, t.TypeRef), nil
}

// typeOf finds the type of an object of a Go type.
func (c converter) typeOf(obj runtime.Object) (typed.ParseableType, error) {
	if named, ok := obj.(util.OpenAPIModelNamer); ok {
		return c.parser.Type(named.OpenAPIModelName()), nil
	}
	name, err := c.scheme.ToOpenAPIDefinitionName(obj.GetObjectKind().GroupVersionKind())
	if err != nil {
		return typed.ParseableType{}, err
	}
	return c.parser.Type(name), nil
}
