package clients

import (
	"encoding/json"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// harbours is the group of the custom resource that the tests' operator keeps.
var harbours = schema.GroupVersion{Group: "sea.example.com", Version: "v1"}

// Harbour is a custom resource: so many piers, and a sign that greets.
type Harbour struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              HarbourSpec   `json:"spec"`
	Status            HarbourStatus `json:"status,omitempty"`
}

type HarbourSpec struct {
	Greeting string `json:"greeting,omitempty"`
	Piers    int32  `json:"piers"`
}

type HarbourStatus struct {
	Piers      int32              `json:"piers,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// HarbourList is a list of them.
type HarbourList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Harbour `json:"items"`
}

func (h *Harbour) DeepCopyObject() runtime.Object     { return clone(h) }
func (l *HarbourList) DeepCopyObject() runtime.Object { return clone(l) }

// clone copies by way of JSON, which is slow and never wrong.
func clone[T any](v *T) *T {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	other := new(T)
	if err := json.Unmarshal(text, other); err != nil {
		panic(err)
	}
	return other
}

func addHarbours(scheme *runtime.Scheme) {
	scheme.AddKnownTypes(harbours, &Harbour{}, &HarbourList{})
	metav1.AddToGroupVersion(scheme, harbours)
}

// harbourDefinition has a schema with defaults and limits, status and scale subresources, and printer columns.
func harbourDefinition() *apiextensionsv1.CustomResourceDefinition {
	text := func(s string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(s)} }
	least, most := 1.0, 9.0
	condition := apiextensionsv1.JSONSchemaProps{Type: "object", Required: []string{"type", "status"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"type": {Type: "string"}, "status": {Type: "string"}, "reason": {Type: "string"}, "message": {Type: "string"},
		"lastTransitionTime": {Type: "string", Format: "date-time"}, "observedGeneration": {Type: "integer", Format: "int64"},
	}}
	listMap := "map"
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "harbours." + harbours.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: harbours.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "harbours", Singular: "harbour", Kind: "Harbour", ListKind: "HarbourList", ShortNames: []string{"hb"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: harbours.Version, Served: true, Storage: true,
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{
					{Name: "Piers", Type: "integer", JSONPath: ".spec.piers"},
					{Name: "Open", Type: "string", JSONPath: `.status.conditions[?(@.type=="Open")].status`},
				},
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.piers", StatusReplicasPath: ".status.piers"},
				},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Required: []string{"spec"},
					Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec": {Type: "object", Required: []string{"piers"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"greeting": {Type: "string", Default: text(`"ahoy"`)},
							"piers":    {Type: "integer", Format: "int32", Minimum: &least, Maximum: &most},
						}},
						"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"piers": {Type: "integer", Format: "int32"},
							"conditions": {Type: "array", XListType: &listMap, XListMapKeys: []string{"type"},
								Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &condition}},
						}},
					},
				}},
			}},
		},
	}
}
