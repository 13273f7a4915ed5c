package apiserver

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// What is odd about a patch itself is lost when it has been brought to the object: keys that stand twice, and members of an
// operation that mean nothing. Kubernetes tells of it as of what is odd about an object.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation

// operation has the members of one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	From  string `json:"from"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// oddities are what a strict reader has against a patch.
func (p patch) oddities(v *validation) []error {
	if v.level == metav1.FieldValidationIgnore {
		return nil
	}
	if p.kind != types.JSONPatchType {
		odd, _ := kjson.UnmarshalStrict(p.body, &map[string]any{}) // Who brings it to the object says where it is none.
		return odd
	}
	odd, _ := kjson.UnmarshalStrict(p.body, &[]operation{})
	for i := range odd {
		odd[i] = fmt.Errorf("json patch %w", odd[i])
	}
	return odd
}

// withOddities adds those of a patch to why what it made is not an object.
func withOddities(odd []error, why error) error {
	if len(odd) == 0 {
		return why
	}
	if strict, ok := runtime.AsStrictDecodingError(why); ok {
		odd = append(odd, strict.Errors()...)
	} else if why != nil {
		return why
	}
	return runtime.NewStrictDecodingError(odd)
}
