package openapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// object is JSON.
type object = map[string]any

// buildV3 makes the OpenAPI v3 document of a group version.
// https://spec.openapis.org/oas/v3.0.0
func (s source) buildV3(ops []operation, custom []*Custom) ([]byte, error) {
	defs, err := s.withCustom(custom, false)
	if err != nil {
		return nil, err
	}
	used, err := reachable(defs, uses(ops))
	if err != nil {
		return nil, err
	}
	paths, err := renderPaths(defs, ops, renderV3)
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"openapi":    "3.0.0",
		"info":       object{"title": "Kubernetes", "version": "unversioned"},
		"paths":      paths,
		"components": object{"schemas": used, "securitySchemes": bearerToken()},
	})
}

// buildV2 makes the OpenAPI v2 document, also known as Swagger, of all operations.
// https://swagger.io/specification/v2/
func (s source) buildV2(byGroupVersion map[string][]operation, custom []*Custom) ([]byte, error) {
	var ops []operation
	for _, key := range slices.Sorted(maps.Keys(byGroupVersion)) {
		ops = append(ops, byGroupVersion[key]...)
	}
	defs, err := s.withCustom(custom, true)
	if err != nil {
		return nil, err
	}
	used, err := reachable(defs, uses(ops))
	if err != nil {
		return nil, err
	}
	converted := map[string]*spec.Schema{}
	for name, def := range used {
		if converted[name], err = definitionV2(def); err != nil {
			return nil, fmt.Errorf("convert %s: %w", name, err)
		}
	}
	paths, err := renderPaths(defs, ops, renderV2)
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"swagger":             "2.0",
		"info":                object{"title": "Kubernetes", "version": "unversioned"},
		"paths":               paths,
		"definitions":         converted,
		"securityDefinitions": bearerToken(),
		"security":            []object{{"BearerToken": []string{}}},
	})
}

// bearerToken is how a client without a certificate says who it is.
func bearerToken() object {
	return object{"BearerToken": object{
		"type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
	}}
}

// definitionV2 turns a definition into what OpenAPI v2 can say, as Kubernetes does: a reference need not hide in an allOf, a
// number or string is a string, and there are no defaults.
func definitionV2(def json.RawMessage) (*spec.Schema, error) {
	var s spec.Schema
	if err := json.Unmarshal(def, &s); err != nil {
		return nil, err
	}
	walker := schemamutation.Walker{
		SchemaCallback: func(s *spec.Schema) *spec.Schema {
			c := *s
			c.Default = nil
			if len(c.AllOf) == 1 {
				c.Ref, c.AllOf = c.AllOf[0].Ref, nil
			}
			if len(c.OneOf) > 0 {
				c.Type, c.OneOf = spec.StringOrArray{"string"}, nil
			}
			return &c
		},
		RefCallback: func(ref *spec.Ref) *spec.Ref {
			name, ok := strings.CutPrefix(ref.String(), refPrefix)
			if !ok {
				return ref
			}
			moved := spec.MustCreateRef("#/definitions/" + name)
			return &moved
		},
	}
	return walker.WalkSchema(&s), nil
}

// renderPaths renders each operation and puts it where its path and method say.
func renderPaths(defs definitions, ops []operation, render func(operation, []parameter) object) (map[string]object, error) {
	paths := map[string]object{}
	for _, op := range ops {
		params, err := parameters(defs, op)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", op.id, err)
		}
		if paths[op.path] == nil {
			paths[op.path] = object{}
		}
		paths[op.path][op.method] = render(op, params)
	}
	return paths, nil
}

// parameter is one in the path or in the query.
type parameter struct {
	name, in, description, kind string
}

// parameters returns what goes in an operation's path, and in its query: the fields of its options that are plain values.
func parameters(defs definitions, op operation) ([]parameter, error) {
	var params []parameter
	if strings.Contains(op.path, "{name}") {
		params = append(params, parameter{"name", "path", "name of the " + op.kind.Kind, "string"})
	}
	if strings.Contains(op.path, "{path}") {
		params = append(params, parameter{"path", "path", "path to the resource", "string"})
	}
	if strings.Contains(op.path, "{namespace}") {
		params = append(params, parameter{"namespace", "path", "object name and auth scope, such as for teams and projects", "string"})
	}
	query := map[string]parameter{} // Deleting a collection has two options with fields in common.
	if op.action != "connect" && !op.kind.Empty() {
		query["pretty"] = parameter{"pretty", "query", prettyText, "string"}
	}
	for _, options := range op.options {
		var def struct {
			Properties map[string]struct {
				Description, Type string
				Items             struct{ Type string }
			}
		}
		if err := json.Unmarshal(defs[options], &def); err != nil {
			return nil, fmt.Errorf("read the definition of %s: %w", options, err)
		}
		for name, p := range def.Properties {
			if p.Type == "array" {
				p.Type = p.Items.Type // It is given more than once, a value each time.
			}
			if p.Type != "" && name != "kind" && name != "apiVersion" && !slices.Contains(op.omitted, name) {
				query[name] = parameter{name, "query", p.Description, p.Type}
			}
		}
	}
	sorted := slices.SortedFunc(maps.Values(query), func(a, b parameter) int { return cmp.Compare(a.name, b.name) })
	return append(params, sorted...), nil
}

// renderV3 returns an Operation Object of OpenAPI v3.
func renderV3(op operation, params []parameter) object {
	o := renderCommon(op)
	list := []object{}
	for _, p := range params {
		rendered := p.render()
		rendered["schema"] = object{"type": p.kind, "uniqueItems": true}
		list = append(list, rendered)
	}
	o["parameters"] = list
	if op.body != "" {
		body := object{"content": contentV3(op.accepts, object{"$ref": refPrefix + op.body})}
		if op.needsBody() {
			body["required"] = true
		}
		o["requestBody"] = body
	}
	answer := object{"type": "string"}
	if op.answer != "" {
		answer = object{"$ref": refPrefix + op.answer}
	}
	o["responses"] = responses(op, object{"content": contentV3(op.produces, answer)})
	return o
}

func contentV3(types []string, schema object) object {
	content := object{}
	for _, t := range types {
		if isWatch(t) {
			content[t] = object{"schema": object{"$ref": refPrefix + watchEvent}}
			continue
		}
		content[t] = object{"schema": schema}
	}
	return content
}

// renderV2 returns an Operation Object of OpenAPI v2.
func renderV2(op operation, params []parameter) object {
	o := renderCommon(op)
	list := []object{}
	for _, p := range params {
		rendered := p.render()
		rendered["type"], rendered["uniqueItems"] = p.kind, true
		list = append(list, rendered)
	}
	if op.body != "" {
		o["consumes"] = op.accepts
		body := object{"name": "body", "in": "body", "schema": object{"$ref": "#/definitions/" + op.body}}
		if op.needsBody() {
			body["required"] = true
		}
		list = append(list, body)
	}
	o["parameters"] = list
	o["produces"], o["schemes"] = op.produces, []string{"https"}
	answer := object{"type": "string"}
	if op.answer != "" {
		answer = object{"$ref": "#/definitions/" + op.answer}
	}
	o["responses"] = responses(op, object{"schema": answer})
	return o
}

func renderCommon(op operation) object {
	o := object{"operationId": op.id, "tags": []string{op.tag}, "description": op.description}
	if !op.kind.Empty() {
		o["x-kubernetes-action"] = op.action
		o["x-kubernetes-group-version-kind"] = object{"group": op.kind.Group, "version": op.kind.Version, "kind": op.kind.Kind}
	}
	return o
}

func (p parameter) render() object {
	o := object{"name": p.name, "in": p.in}
	if p.description != "" {
		o["description"] = p.description
	}
	if p.in == "path" {
		o["required"] = true
	}
	return o
}

// responses returns what each code of success brings: the same. Strangers may ask for any of it, and get nothing.
func responses(op operation, content object) object {
	described := map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}
	all := object{"401": object{"description": "Unauthorized"}}
	for _, code := range op.codes {
		response := maps.Clone(content)
		response["description"] = described[code]
		all[code] = response
	}
	return all
}
