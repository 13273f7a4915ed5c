package openapi

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
)

//go:generate generate/generate.sh

//go:embed definitions.json.gz
var packed string

// definitions are JSON schemas by name.
type definitions = map[string]json.RawMessage

// refPrefix comes before a definition's name in a reference.
const refPrefix = "#/components/schemas/"

// unpack reads the embedded definitions. They stay JSON, as a document needs no more.
func unpack() (definitions, error) {
	z, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the OpenAPI definitions: %w", err)
	}
	var defs definitions
	if err := json.NewDecoder(z).Decode(&defs); err != nil {
		return nil, fmt.Errorf("unpack the OpenAPI definitions: %w", err)
	}
	return defs, nil
}

// reachable returns the named definitions, and all that they refer to.
func reachable(defs definitions, names iter.Seq[string]) (definitions, error) {
	found := definitions{}
	var visit func(names iter.Seq[string]) error
	visit = func(names iter.Seq[string]) error {
		for name := range names {
			if found[name] != nil {
				continue
			}
			def, ok := defs[name]
			if !ok {
				return fmt.Errorf("there is no OpenAPI definition of %s", name)
			}
			found[name] = def
			if err := visit(references(def)); err != nil {
				return err
			}
		}
		return nil
	}
	return found, visit(names)
}

// references returns the names that a definition refers to.
func references(def json.RawMessage) iter.Seq[string] {
	return func(yield func(string) bool) {
		// In a description the quotes would be escaped.
		marker := []byte(`"$ref":"` + refPrefix)
		for rest := []byte(def); ; {
			_, after, ok := bytes.Cut(rest, marker)
			if !ok {
				return
			}
			name, after, _ := bytes.Cut(after, []byte{'"'})
			if !yield(string(name)) {
				return
			}
			rest = after
		}
	}
}
