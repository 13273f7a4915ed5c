package api

import (
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// customResourceDefinition makes new kinds. What a kind's schemas may hold is checked by the API server, which makes rows
// like those of this table out of them (package apiserver/custom); here are the rules for all around the schemas.
func customResourceDefinition() *Resource {
	const kind = "CustomResourceDefinition"
	status := statusSub(kind)
	status.Validate = func(obj, _ runtime.Object) field.ErrorList {
		return validateDefinitionStatus(obj.(*apiextensionsv1.CustomResourceDefinition))
	}
	return row(Resource{
		Group: apiextensionsv1.GroupName, Version: "v1", Name: "customresourcedefinitions", Singular: "customresourcedefinition", Kind: kind,
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Conditional:  true,
		AnyFinalizer: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{status},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Scope", "string", "Whether its objects are in namespaces."), column("Versions", "string", "Those that are served."), createdColumn(),
			wide("Group", "string", "The API group of its objects."), wide("Kind", "string", "The kind of its objects."),
			wide("ShortNames", "string", "What its objects may be called for short."), wide("Established", "boolean", "Whether its objects are served."),
		},
	}, rules[apiextensionsv1.CustomResourceDefinition]{
		Default:        defaultDefinition,
		PrepareCreate:  keepStoredVersion,
		PrepareUpdate:  func(c, _ *apiextensionsv1.CustomResourceDefinition) { keepStoredVersion(c) },
		Validate:       validateDefinition,
		ValidateUpdate: validateDefinitionUpdate,
		Wanted:         func(c *apiextensionsv1.CustomResourceDefinition) any { return &c.Spec },
		Row:            definitionRow,
	})
}

func definitionRow(c *apiextensionsv1.CustomResourceDefinition) []any {
	var versions []string
	for _, v := range c.Spec.Versions {
		switch {
		case v.Served && v.Storage:
			versions = append(versions, v.Name+"(storage)")
		case v.Served:
			versions = append(versions, v.Name)
		}
	}
	slices.Sort(versions)
	return []any{
		c.Name, string(c.Spec.Scope), strings.Join(versions, ","), created(c),
		c.Spec.Group, c.Spec.Names.Kind, strings.Join(c.Spec.Names.ShortNames, ","), IsDefinitionTrue(c, apiextensionsv1.Established),
	}
}

func defaultDefinition(c *apiextensionsv1.CustomResourceDefinition) {
	names := &c.Spec.Names
	setDefault(&names.Singular, strings.ToLower(names.Kind))
	if names.Kind != "" {
		setDefault(&names.ListKind, names.Kind+"List")
	}
	setDefaultPtr(&c.Spec.Conversion, apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter})
	if hook := c.Spec.Conversion.Webhook; hook != nil && hook.ClientConfig != nil && hook.ClientConfig.Service != nil {
		setDefaultPtr(&hook.ClientConfig.Service.Port, 443)
	}
}

// keepStoredVersion notes in which version objects are stored from now on. Those that are stored already may be in an
// earlier one, which is therefore not forgotten.
func keepStoredVersion(c *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range c.Spec.Versions {
		if v.Storage && !slices.Contains(c.Status.StoredVersions, v.Name) {
			c.Status.StoredVersions = append(slices.Clone(c.Status.StoredVersions), v.Name)
			return
		}
	}
}

// IsDefinitionTrue tells whether a condition of a CustomResourceDefinition is there and true.
func IsDefinitionTrue(c *apiextensionsv1.CustomResourceDefinition, kind apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(have apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return have.Type == kind && have.Status == apiextensionsv1.ConditionTrue
	})
}
