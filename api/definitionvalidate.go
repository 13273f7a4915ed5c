package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateDefinition(c *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	path, s := field.NewPath("spec"), &c.Spec
	var errs field.ErrorList
	if want := s.Names.Plural + "." + s.Group; c.Name != "" && c.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, `must be spec.names.plural+"."+spec.group`))
	}
	errs = append(errs, validateApproval(c)...)
	errs = append(errs, validateCustomGroup(path.Child("group"), s.Group)...)
	errs = append(errs, oneOf(path.Child("scope"), s.Scope, apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped)...)
	errs = append(errs, validateCustomVersions(path.Child("versions"), s.Versions)...)
	errs = append(errs, validateRequiredNames(path.Child("names"), &s.Names)...)
	errs = append(errs, validateCustomNames(path.Child("names"), &s.Names)...)
	errs = append(errs, validateConversion(path.Child("conversion"), s.Conversion)...)
	if s.PreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true,
			"cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	errs = append(errs, validateDefinitionStatus(c)...)
	return append(errs, validateStoredVersions(field.NewPath("status", "storedVersions"), c)...)
}

func validateDefinitionStatus(c *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validateCustomNames(field.NewPath("status", "acceptedNames"), &c.Status.AcceptedNames)
}

// validateDefinitionUpdate keeps what the stored objects and their paths depend on.
func validateDefinitionUpdate(c, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if IsDefinitionTrue(old, apiextensionsv1.Established) {
		errs = append(errs, immutable(path.Child("scope"), c.Spec.Scope, old.Spec.Scope)...)
		errs = append(errs, immutable(path.Child("names", "kind"), c.Spec.Names.Kind, old.Spec.Names.Kind)...)
	}
	errs = append(errs, immutable(path.Child("group"), c.Spec.Group, old.Spec.Group)...)
	return append(errs, immutable(path.Child("names", "plural"), c.Spec.Names.Plural, old.Spec.Names.Plural)...)
}

func validateCustomGroup(path *field.Path, group string) field.ErrorList {
	if group == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if found := validation.IsDNS1123Subdomain(group); len(found) > 0 {
		return field.ErrorList{field.Invalid(path, group, strings.Join(found, ","))}
	}
	if !strings.Contains(group, ".") {
		return field.ErrorList{field.Invalid(path, group, "should be a domain with at least one dot")}
	}
	return nil
}

// validateApproval keeps the groups of Kubernetes itself to what its community has seen.
// https://github.com/kubernetes/enhancements/pull/1111
func validateApproval(c *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	const key = apiextensionsv1.KubeAPIApprovedAnnotation
	group := "." + c.Spec.Group
	if !strings.HasSuffix(group, ".k8s.io") && !strings.HasSuffix(group, ".kubernetes.io") {
		return nil
	}
	path, value := field.NewPath("metadata", "annotations").Key(key), c.Annotations[key]
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("protected groups must have approval annotation %q, see https://github.com/kubernetes/enhancements/pull/1111", key))}
	}
	if u, err := url.ParseRequestURI(value); strings.HasPrefix(value, "unapproved") || err == nil && u.Host != "" && u.Scheme != "" {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, fmt.Sprintf("protected groups must have approval annotation %q with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111", key))}
}

// VersionPath is where a part of a definition's version i is, in the words of errors: what all versions have alike Kubernetes keeps
// once, above them. again tells that it was told of with an earlier version.
func VersionPath(versions []apiextensionsv1.CustomResourceDefinitionVersion, i int, part string) (at *field.Path, again bool) {
	of := func(v *apiextensionsv1.CustomResourceDefinitionVersion) any {
		switch part {
		case "schema":
			return v.Schema
		case "subresources":
			return v.Subresources
		case "selectableFields":
			return v.SelectableFields
		}
		return v.AdditionalPrinterColumns
	}
	spec := field.NewPath("spec")
	for j := range versions {
		if !equality.Semantic.DeepEqual(of(&versions[j]), of(&versions[0])) {
			return spec.Child("versions").Index(i).Child(part), false
		}
	}
	if part == "schema" {
		part = "validation"
	}
	return spec.Child(part), i > 0
}

func validateCustomVersions(path *field.Path, versions []apiextensionsv1.CustomResourceDefinitionVersion) field.ErrorList {
	var errs field.ErrorList
	stored, seen, twice := 0, map[string]bool{}, false
	for i := range versions {
		v, at := &versions[i], path.Index(i)
		if v.Storage {
			stored++
		}
		twice = twice || seen[v.Name]
		seen[v.Name] = true
		if found := validation.IsDNS1035Label(v.Name); len(found) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(found, ",")))
		}
		errs = append(errs, validateDeprecation(at.Child("deprecationWarning"), v)...)
		if subs, again := VersionPath(versions, i, "subresources"); !again {
			errs = append(errs, validateCustomSubs(subs, v.Subresources)...)
		}
		columns, again := VersionPath(versions, i, "additionalPrinterColumns")
		for j := range v.AdditionalPrinterColumns {
			if !again {
				errs = append(errs, validateCustomColumn(columns.Index(j), &v.AdditionalPrinterColumns[j])...)
			}
		}
	}
	if twice {
		errs = append(errs, field.Invalid(path, versionNames(versions), "must contain unique version names"))
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(path, versionNames(versions), "must have exactly one version marked as storage version"))
	}
	return errs
}

func versionNames(versions []apiextensionsv1.CustomResourceDefinitionVersion) []string {
	var names []string
	for _, v := range versions {
		names = append(names, v.Name)
	}
	return names
}

func validateDeprecation(path *field.Path, v *apiextensionsv1.CustomResourceDefinitionVersion) field.ErrorList {
	if v.DeprecationWarning == nil {
		return nil
	}
	text := *v.DeprecationWarning
	if !v.Deprecated {
		return field.ErrorList{field.Invalid(path, text, "can only be set for deprecated versions")}
	}
	var errs field.ErrorList
	if len(text) > 256 {
		errs = append(errs, field.Invalid(path, text, "must be <= 256 characters long"))
	}
	if text == "" {
		errs = append(errs, field.Invalid(path, text, "must not be an empty string"))
	}
	for i, r := range text {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return append(errs, field.Invalid(path, text, fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i)))
		}
	}
	return errs
}

// validateRequiredNames wants the names that a definition must ask for; what is accepted of them may lack some.
func validateRequiredNames(path *field.Path, n *apiextensionsv1.CustomResourceDefinitionNames) field.ErrorList {
	errs := required(path.Child("plural"), n.Plural)
	errs = append(errs, required(path.Child("singular"), n.Singular)...)
	errs = append(errs, required(path.Child("kind"), n.Kind)...)
	return append(errs, required(path.Child("listKind"), n.ListKind)...)
}

func validateCustomNames(path *field.Path, n *apiextensionsv1.CustomResourceDefinitionNames) field.ErrorList {
	var errs field.ErrorList
	check := func(at *field.Path, value, label, prefix string) {
		if found := validation.IsDNS1035Label(label); value != "" && len(found) > 0 {
			errs = append(errs, field.Invalid(at, value, prefix+strings.Join(found, ",")))
		}
	}
	const mixed = "may have mixed case, but should otherwise match: "
	check(path.Child("plural"), n.Plural, n.Plural, "")
	check(path.Child("singular"), n.Singular, n.Singular, "")
	check(path.Child("kind"), n.Kind, strings.ToLower(n.Kind), mixed)
	check(path.Child("listKind"), n.ListKind, strings.ToLower(n.ListKind), mixed)
	for i, name := range n.ShortNames {
		errs = append(errs, invalid(path.Child("shortNames").Index(i), name, validation.IsDNS1035Label(name))...)
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, name := range n.Categories {
		errs = append(errs, invalid(path.Child("categories").Index(i), name, validation.IsDNS1035Label(name))...)
	}
	return errs
}

// validateConversion refuses what is not here yet: to have objects converted by a webhook.
func validateConversion(path *field.Path, c *apiextensionsv1.CustomResourceConversion) field.ErrorList {
	if c == nil {
		return nil
	}
	switch at := path.Child("strategy"); c.Strategy {
	case apiextensionsv1.NoneConverter:
	case apiextensionsv1.WebhookConverter:
		return field.ErrorList{field.Invalid(at, c.Strategy, "skiff has no conversion webhooks yet: serve one version, or versions of the same fields with the strategy None")}
	default:
		return oneOf(at, c.Strategy, apiextensionsv1.NoneConverter, apiextensionsv1.WebhookConverter)
	}
	if c.Webhook != nil {
		return field.ErrorList{field.Forbidden(path.Child("webhook"), "should not be set when strategy is not set to Webhook")}
	}
	return nil
}

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateCustomColumn(path *field.Path, c *apiextensionsv1.CustomResourceColumnDefinition) field.ErrorList {
	errs := required(path.Child("name"), c.Name)
	types := "must be one of " + strings.Join(columnTypes, ",")
	switch at := path.Child("type"); {
	case c.Type == "":
		errs = append(errs, field.Required(at, types))
	case !slices.Contains(columnTypes, c.Type):
		errs = append(errs, field.Invalid(at, c.Type, types))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.Invalid(path.Child("format"), c.Format, "must be one of "+strings.Join(columnFormats, ",")))
	}
	if at := path.Child("JSONPath"); c.JSONPath == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateSimplePath(at, c.JSONPath)...)
	}
	return errs
}

func validateSimplePath(path *field.Path, p string) field.ErrorList {
	if p[0] != '.' {
		return field.ErrorList{field.Invalid(path, p, "must be a simple json path starting with .")}
	}
	return nil
}

// validateCustomSubs wants a Scale to be found where the spec and the status are.
func validateCustomSubs(path *field.Path, subs *apiextensionsv1.CustomResourceSubresources) field.ErrorList {
	if subs == nil || subs.Scale == nil {
		return nil
	}
	scale, at := subs.Scale, path.Child("scale")
	errs := validatePathUnder(at.Child("specReplicasPath"), scale.SpecReplicasPath, "should be a json path under .spec", ".spec.")
	errs = append(errs, validatePathUnder(at.Child("statusReplicasPath"), scale.StatusReplicasPath, "should be a json path under .status", ".status.")...)
	if selector := deref(scale.LabelSelectorPath); selector != "" {
		errs = append(errs, validatePathUnder(at.Child("labelSelectorPath"), selector, "should be a json path under either .spec or .status", ".spec.", ".status.")...)
	}
	return errs
}

func validatePathUnder(path *field.Path, p, message string, roots ...string) field.ErrorList {
	if p == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if errs := validateSimplePath(path, p); len(errs) > 0 {
		return errs
	}
	if !slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(p, root) }) {
		return field.ErrorList{field.Invalid(path, p, message)}
	}
	return nil
}

func validateStoredVersions(path *field.Path, c *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	stored := c.Status.StoredVersions
	if len(stored) == 0 {
		return field.ErrorList{field.Invalid(path, stored, "must have at least one stored version")}
	}
	var errs field.ErrorList
	for _, v := range c.Spec.Versions {
		if v.Storage && !slices.Contains(stored, v.Name) {
			errs = append(errs, field.Invalid(path, stored, "must have the storage version "+v.Name))
		}
	}
	names := versionNames(c.Spec.Versions)
	for i, v := range stored {
		if !slices.Contains(names, v) {
			errs = append(errs, field.Invalid(path.Index(i), v, fmt.Sprintf("missing from spec.versions; %[1]s was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in %[1]s and removes %[1]s from status.storedVersions", v)))
		}
	}
	return errs
}
