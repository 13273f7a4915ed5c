package openapi

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
)

// Custom is a kind that has no Go type: its schema comes along.
type Custom struct {
	Resource *api.Resource
	// Schema is the JSON schema of an object as OpenAPI v3 has it, or of what OpenAPI v2 can say of it. References are those
	// of OpenAPI v3, to the definitions of Go types.
	Schema func(v2 bool) (json.RawMessage, error)
}

// With returns documents that describe custom kinds too. A document that would be the same is the same.
func (d *Documents) With(custom []*Custom) (*Documents, error) {
	next := &Documents{unpacked: d.unpacked, definitions: d.definitions, own: d.own, custom: map[string][]*Custom{}, v3: map[string]*document{}}
	for _, c := range custom {
		key := strings.TrimPrefix(root(c.Resource), "/")
		next.custom[key] = append(next.custom[key], c)
	}
	from, all := d.definitions, maps.Clone(d.own)
	for key, kinds := range next.custom {
		slices.SortFunc(kinds, func(a, b *Custom) int { return strings.Compare(a.Resource.Name, b.Resource.Name) })
		ops := slices.Clone(d.own[key])
		for _, c := range kinds {
			more, err := operations(c.Resource)
			if err != nil {
				return nil, fmt.Errorf("describe %s: %w", c.Resource.GroupResource(), err)
			}
			ops = append(ops, more...)
		}
		all[key] = ops
	}
	for key, ops := range all {
		kinds := next.custom[key]
		if same := d.v3[key]; same != nil && slices.Equal(d.custom[key], kinds) {
			next.v3[key] = same
			continue
		}
		next.v3[key] = newDocument(func() ([]byte, error) { return from.buildV3(ops, kinds) }, protoV3)
	}
	next.v2 = newDocument(func() ([]byte, error) { return from.buildV2(all, custom) }, protoV2)
	next.index = newDocument(next.buildIndex, nil)
	return next, nil
}

// withCustom are the definitions with those of custom kinds.
func (s source) withCustom(custom []*Custom, v2 bool) (definitions, error) {
	own, err := s()
	if err != nil || len(custom) == 0 {
		return own, err
	}
	defs := maps.Clone(own)
	for _, c := range custom {
		gvk := c.Resource.GroupVersionKind()
		def, err := c.Schema(v2)
		if err == nil {
			err = fits(def, v2)
		}
		if err != nil { // One kind must not cost the others their document.
			slog.Warn("a custom kind is described without its fields", "kind", gvk, "err", err)
			if def, err = untyped(gvk); err != nil {
				return nil, err
			}
		}
		defs[customName(gvk)] = def
		list := gvk
		list.Kind = c.Resource.ListKind
		if defs[customName(list)], err = listOf(gvk, list); err != nil {
			return nil, err
		}
	}
	return defs, nil
}

// fits tells what keeps a definition from being part of a document, which must have a form in protobuf too.
func fits(def json.RawMessage, v2 bool) error {
	doc := object{"openapi": "3.0.0", "components": object{"schemas": object{"x": def}}}
	parse := protoV3
	if v2 {
		converted, err := definitionV2(def)
		if err != nil {
			return err
		}
		doc, parse = object{"swagger": "2.0", "definitions": object{"x": converted}}, protoV2
	}
	doc["info"], doc["paths"] = object{"title": "Kubernetes", "version": "unversioned"}, object{}
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = parse(data)
	return err
}

// untyped is the definition of a kind of which nothing is known but its name.
func untyped(gvk schema.GroupVersionKind) (json.RawMessage, error) {
	return json.Marshal(object{
		"type": "object", "x-kubernetes-preserve-unknown-fields": true,
		"x-kubernetes-group-version-kind": []object{{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}},
	})
}

// DefinitionsOf returns the definitions of custom kinds and all that those refer to, as Definitions does.
func (d *Documents) DefinitionsOf(custom []*Custom) (map[string]json.RawMessage, error) {
	defs, err := d.definitions.withCustom(custom, false)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range custom {
		names = append(names, customName(c.Resource.GroupVersionKind()))
	}
	return reachable(defs, slices.Values(names))
}

// listOf is the definition of a list of a custom kind.
func listOf(gvk, list schema.GroupVersionKind) (json.RawMessage, error) {
	text := func(description string) object { return object{"type": "string", "description": description} }
	ref := func(name string) object { return object{"$ref": refPrefix + name} }
	return json.Marshal(object{
		"description": fmt.Sprintf("%s is a list of %s", list.Kind, gvk.Kind),
		"type":        "object",
		"required":    []string{"items"},
		"properties": object{
			"apiVersion": text(APIVersionText), "kind": text(KindText),
			"metadata": ref(metaPrefix + "ListMeta"),
			"items":    object{"type": "array", "description": "List of " + gvk.Kind, "items": ref(customName(gvk))},
		},
		"x-kubernetes-group-version-kind": []object{{"group": list.Group, "version": list.Version, "kind": list.Kind}},
	})
}

// What Kubernetes says of the fields that every object has, and every object within one.
const (
	APIVersionText         = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	KindText               = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
	EmbeddedAPIVersionText = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	EmbeddedKindText       = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
	MetadataText           = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)

// ObjectMetaRef refers to the definition of an object's metadata.
const ObjectMetaRef = refPrefix + metaPrefix + "ObjectMeta"

// customName is a definition's name, made of the group backwards: "com.example.stable.v1.CronTab".
func customName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, gvk.Version, gvk.Kind), ".")
}
