// Package custom makes, of a CustomResourceDefinition, the rows by which the API server serves a kind that it was not built
// with: rows like those of package api, whose rules come from the definition's schemas instead of Go code.
//
// Everything here is a pure function of a definition and of objects: [Check] finds what is wrong with a definition's
// schemas, [New] makes the rows, [Accept] decides about names. The API server does what they say: it stores, routes and deletes.
//
// A custom resource has no Go type; it is a tree of maps (unstructured.Unstructured). What the decoder does for Go types a
// row's Prune does here: a field that the schema does not have is dropped. Then come the schema's defaults, its values'
// bounds, the rules of lists that are sets or maps, and its validation rules, written in CEL (package rule).
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
//
// One version stores; the others are views of it (api.View), which differ in nothing but the version's name and what the
// schema lets through.
//
// In Kubernetes: k8s.io/apiextensions-apiserver, of which the parts that do not need k8s.io/apiserver are used: structural
// schemas, pruning and list types. Left out: conversion by webhook, and ratcheting within the items of lists.
package custom

import (
	"cmp"
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/version"

	"skiff/api"
	"skiff/apiserver/openapi"
)

// Definition is a CustomResourceDefinition made ready to be served. It never changes.
type Definition struct {
	Stored *api.Resource   // The row of the version that is stored, whether or not that one is served.
	Served []*api.Resource // The rows of the served versions, the preferred one first.
	// Described are the same versions for the OpenAPI documents.
	Described []*openapi.Custom
}

// New makes a definition ready. Its schemas have passed [Check] when it was written.
func New(crd *apiextensionsv1.CustomResourceDefinition) (*Definition, error) {
	if want := crd.Spec.Names.Plural + "." + crd.Spec.Group; crd.Name != want {
		return nil, fmt.Errorf("%s defines %s", crd.Name, want)
	}
	d, versions := &Definition{}, map[string]*kind{}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		schema, err := structural(v)
		if err != nil {
			return nil, fmt.Errorf("read the schema of %s, version %s: %w", crd.Name, v.Name, err)
		}
		versions[v.Name] = newKind(crd, v, schema)
		if v.Storage {
			d.Stored = versions[v.Name].row()
		}
	}
	if d.Stored == nil {
		return nil, fmt.Errorf("%s has no version that is stored", crd.Name)
	}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		kind, r := versions[v.Name], d.Stored
		if !v.Storage {
			r = kind.view(d.Stored)
		}
		d.Served = append(d.Served, r)
		d.Described = append(d.Described, kind.describe(r))
	}
	slices.SortFunc(d.Served, Compare)
	return d, nil
}

// Compare orders rows as discovery lists them: by group, the most stable and newest version of a group first, then by name.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#version-priority
func Compare(a, b *api.Resource) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), version.CompareKubeAwareVersionStrings(b.Version, a.Version), cmp.Compare(a.Name, b.Name))
}
