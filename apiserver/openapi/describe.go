package openapi

import (
	"fmt"
	"slices"
	"strings"

	"skiff/api"
)

// describe says in Kubernetes' words what a verb does with a kind.
func describe(r *api.Resource, verb string) string {
	switch verb {
	case "get":
		return "read the specified " + r.Kind
	case "list":
		if slices.Contains(r.Verbs, "watch") {
			return "list or watch objects of kind " + r.Kind
		}
		return "list objects of kind " + r.Kind
	case "create":
		return "create " + withArticle(r.Kind)
	case "update":
		return "replace the specified " + r.Kind
	case "patch":
		return "partially update the specified " + r.Kind
	case "delete":
		return "delete " + withArticle(r.Kind)
	case "deletecollection":
		return "delete collection of " + r.Kind
	}
	return ""
}

// describeSub says it of a subresource.
func describeSub(r *api.Resource, sub, verb string) string {
	switch verb {
	case "create":
		return fmt.Sprintf("create %s of %s", sub, withArticle(r.Kind))
	case "get":
		return fmt.Sprintf("read %s of the specified %s", sub, r.Kind)
	case "update":
		return fmt.Sprintf("replace %s of the specified %s", sub, r.Kind)
	case "patch":
		return fmt.Sprintf("partially update %s of the specified %s", sub, r.Kind)
	}
	return ""
}

// withArticle puts one before a kind that is not a plural: "a Pod", "an Ingress", "Endpoints".
func withArticle(kind string) string {
	switch {
	case strings.HasSuffix(kind, "s") && !strings.HasSuffix(kind, "ss"):
		return kind
	case strings.ContainsAny(kind[:1], "AEIOU"):
		return "an " + kind
	}
	return "a " + kind
}

// prettyText describes the parameter that all answers with an object have.
const prettyText = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."

// needsBody tells whether the request is nothing without its body, which the options of a deletion are not.
func (op operation) needsBody() bool { return op.body != "" && op.method != "delete" }
