package custom

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"

	"skiff/api"
)

// kind is one version of a definition's kind: what its objects are made and judged by.
type kind struct {
	crd     *apiextensionsv1.CustomResourceDefinition
	version *apiextensionsv1.CustomResourceDefinitionVersion
	schema  *schema.Structural
	columns []column
	fields  []selectable
	judge   func() *judge // Made when the first object is written.
}

func newKind(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion, s *schema.Structural) *kind {
	return &kind{
		crd: crd, version: v, schema: s, columns: newColumns(v.AdditionalPrinterColumns), fields: newSelectables(v.SelectableFields),
		judge: sync.OnceValue(func() *judge { return newJudge(s, v.Subresources) }),
	}
}

// row is that of a version that is stored.
func (k *kind) row() *api.Resource {
	spec, names := &k.crd.Spec, k.names()
	r := &api.Resource{
		Group: spec.Group, Version: k.version.Name, Name: names.Plural, Singular: names.Singular, Kind: names.Kind, ListKind: names.ListKind,
		ShortNames: names.ShortNames, Categories: names.Categories, Namespaced: spec.Scope == apiextensionsv1.NamespaceScoped,
		Verbs: []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}, Custom: true, Conditional: true,
		Deprecated: k.warning(),
		Prune:      func(obj runtime.Object) ([]string, error) { return k.prune(obj) },
		Default:    func(obj runtime.Object) { setDefaults(tree(obj), k.schema) },
		Fields:     func(obj runtime.Object) fields.Set { return selectFields(k.fields, tree(obj)) },
		Wanted:     wanted(k.version.Subresources),
		Row:        func(obj runtime.Object) []any { return printRow(k.columns, obj.(*unstructured.Unstructured)) },
		Columns:    columnDefinitions(k.columns),
	}
	r.ValidateCreate = k.validateCreate
	r.ValidateUpdate = k.validateUpdate
	k.addSubs(r)
	return r
}

// view is the row of another version than the stored one.
func (k *kind) view(of *api.Resource) *api.Resource {
	r := k.row()
	r.Default = of.Default
	r.View = &api.View{
		Of: of,
		Show: func(stored runtime.Object) runtime.Object {
			shown := stored.DeepCopyObject().(*unstructured.Unstructured)
			shown.SetAPIVersion(r.GroupVersion().String())
			_, _ = k.prune(shown) // What is stored was tidy when it was written.
			return shown
		},
		Store: func(shown runtime.Object) (runtime.Object, error) {
			obj := shown.(*unstructured.Unstructured)
			setDefaults(obj.Object, k.schema)
			obj.SetAPIVersion(of.GroupVersion().String())
			return obj, nil
		},
	}
	return r
}

// names are those that the kind goes by: what it asked for, once that was accepted. The plural is a part of the definition's own
// name, and of the keys of objects, whatever somebody wrote to the status.
func (k *kind) names() apiextensionsv1.CustomResourceDefinitionNames {
	names := k.crd.Status.AcceptedNames
	if names.Kind == "" {
		names = k.crd.Spec.Names
	}
	names.Plural = k.crd.Spec.Names.Plural
	return names
}

// warning is what a client of a deprecated version is told.
func (k *kind) warning() string {
	v := k.version
	if !v.Deprecated {
		return ""
	}
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", k.crd.Spec.Group, v.Name, k.crd.Spec.Names.Kind)
	newest := ""
	for _, other := range k.crd.Spec.Versions {
		if other.Served && !other.Deprecated && version.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 &&
			(newest == "" || version.CompareKubeAwareVersionStrings(newest, other.Name) < 0) {
			newest = other.Name
		}
	}
	if newest == "" {
		return text
	}
	return fmt.Sprintf("%s; use %s/%s %s", text, k.crd.Spec.Group, newest, k.crd.Spec.Names.Kind)
}

// wanted is what the generation counts the changes of: everything but the metadata, and the status where that is written by
// itself.
func wanted(subs *apiextensionsv1.CustomResourceSubresources) func(obj runtime.Object) any {
	return func(obj runtime.Object) any {
		rest := map[string]any{}
		for name, value := range tree(obj) {
			if name != "metadata" && (name != "status" || subs == nil || subs.Status == nil) {
				rest[name] = value
			}
		}
		return rest
	}
}

// tree is an object's content.
func tree(obj runtime.Object) map[string]any { return obj.(*unstructured.Unstructured).Object }

// addSubs adds the subresources that the version has.
func (k *kind) addSubs(r *api.Resource) {
	subs := k.version.Subresources
	if subs == nil {
		return
	}
	verbs := []string{"get", "patch", "update"}
	if subs.Status != nil {
		r.Subs = append(r.Subs, api.Sub{Name: "status", Kind: r.Kind, Verbs: verbs, Keeps: api.MetadataParts(), Validate: k.validateStatus})
	}
	if scale := subs.Scale; scale != nil {
		r.Subs = append(r.Subs, api.Sub{Name: "scale", Kind: "Scale", Group: "autoscaling", Verbs: verbs})
		r.Scale = func(obj runtime.Object) api.Scale { return scaleOf(scale, tree(obj)) }
		r.SetReplicas = func(obj runtime.Object, n int32) { setReplicas(scale, tree(obj), n) }
		r.ReplicasPath = slices.Clone(steps(scale.SpecReplicasPath))
	}
}

// steps are the names that a simple JSON path goes through: ".spec.replicas".
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }
