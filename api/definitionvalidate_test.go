package api

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// What all versions of a definition have alike is told of once, and above them; the rest at its version.
func TestPathsOfVersions(t *testing.T) {
	schema := func(kind string) *apiextensionsv1.CustomResourceValidation {
		return &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: kind}}
	}
	columns := []apiextensionsv1.CustomResourceColumnDefinition{{Name: "A"}}
	versions := []apiextensionsv1.CustomResourceDefinitionVersion{
		{Name: "v1", Schema: schema("object"), AdditionalPrinterColumns: columns}, {Name: "v2", Schema: schema("object")},
	}
	for _, tc := range []struct {
		version int
		part    string
		want    string
		again   bool
	}{
		{0, "schema", "spec.validation", false},
		{1, "schema", "spec.validation", true},
		{0, "additionalPrinterColumns", "spec.versions[0].additionalPrinterColumns", false},
		{1, "additionalPrinterColumns", "spec.versions[1].additionalPrinterColumns", false},
		{1, "selectableFields", "spec.selectableFields", true},
		{0, "subresources", "spec.subresources", false},
	} {
		if at, again := VersionPath(versions, tc.version, tc.part); at.String() != tc.want || again != tc.again {
			t.Errorf("%s of version %d is at %s, again %t; want %s, %t", tc.part, tc.version, at, again, tc.want, tc.again)
		}
	}
}
