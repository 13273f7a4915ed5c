package openapi

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/util"

	"skiff/api"
)

// operation is one method of one path, as both versions of OpenAPI see it.
type operation struct {
	path, method string
	id           string // Unique: "patchAppsV1NamespacedDeployment".
	tag          string // Groups operations: "apps_v1".
	action       string // What Kubernetes calls it: "patch".
	kind         schema.GroupVersionKind
	description  string
	options      []string // Definitions whose fields are the query's parameters.
	omitted      []string // Fields of those that mean nothing here.
	body         string   // Definition of the request's body; "" for none.
	accepts      []string // Media types of the request's body.
	answer       string   // Definition of the response's body; "" for text or a stream.
	produces     []string // Media types of the response's body.
	codes        []string // HTTP status codes of success.
}

const (
	metaPrefix    = "io.k8s.apimachinery.pkg.apis.meta.v1."
	createOptions = metaPrefix + "CreateOptions"
	updateOptions = metaPrefix + "UpdateOptions"
	patchOptions  = metaPrefix + "PatchOptions"
	deleteOptions = metaPrefix + "DeleteOptions"
	listOptions   = metaPrefix + "ListOptions"
	status        = metaPrefix + "Status"
	patchBody     = metaPrefix + "Patch"
	watchEvent    = metaPrefix + "WatchEvent"
)

// watching ends the media types of a stream of watch events.
const watching = ";stream=watch"

func isWatch(mediaType string) bool { return strings.HasSuffix(mediaType, watching) }

// Media types, by what they carry. They are not changed.
var (
	typesObject = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	typesList   = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf",
		"application/json" + watching, "application/vnd.kubernetes.protobuf" + watching}
	typesPatch = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
		"application/apply-patch+yaml"}
	typesAny = []string{"*/*"}
)

// codeVersion asks what the server is. It is about no kind.
var codeVersion = operation{
	path: "/version/", method: "get", id: "getCodeVersion", tag: "version", description: "get the version information for this server",
	answer: "io.k8s.apimachinery.pkg.version.Info", produces: []string{"application/json"}, codes: []string{"200"},
}

// operations returns what a client can do with a resource and its subresources.
func operations(r *api.Resource) ([]operation, error) {
	kind, err := definitionOf(r, r.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	var ops []operation
	for _, verb := range r.Verbs {
		switch verb {
		case "watch": // A list with ?watch=true.
			continue
		case "list":
			list, err := definitionOf(r, r.GroupVersion().WithKind(cmp.Or(r.ListKind, r.Kind+"List")))
			if err != nil {
				return nil, err
			}
			ops = append(ops, lists(r, list)...)
		case "deletecollection":
			op := newOperation(r, collection(r), verb, "", status)
			op.id = "delete" + groupID(r) + "Collection" + scopeID(r) + r.Kind
			ops = append(ops, op)
		case "create":
			ops = append(ops, newOperation(r, collection(r), verb, "", kind))
		case "get", "update", "patch", "delete":
			ops = append(ops, newOperation(r, collection(r)+"/{name}", verb, "", kind))
		default:
			return nil, fmt.Errorf("unknown verb %q", verb)
		}
	}
	for _, sub := range r.Subs {
		more, err := subOperations(r, sub)
		if err != nil {
			return nil, fmt.Errorf("subresource %s: %w", sub.Name, err)
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

// lists are the one or two ways to list a resource: in one namespace, and in all.
func lists(r *api.Resource, answer string) []operation {
	op := newOperation(r, collection(r), "list", "", answer)
	if !r.Namespaced {
		return []operation{op}
	}
	everywhere := op
	everywhere.path = root(r) + "/" + r.Name
	everywhere.id = "list" + groupID(r) + r.Kind + "ForAllNamespaces"
	return []operation{op, everywhere}
}

func subOperations(r *api.Resource, sub api.Sub) ([]operation, error) {
	gvk := r.GroupVersion().WithKind(sub.Kind)
	if sub.Group != "" && sub.Group != r.Group {
		gvk = schema.GroupVersionKind{Group: sub.Group, Version: "v1", Kind: sub.Kind}
	}
	def, err := definitionOf(r, gvk)
	if err != nil {
		return nil, err
	}
	var ops []operation
	verbs := sub.Verbs
	if sub.Name == "proxy" { // It has more methods than there are verbs.
		verbs = append(slices.Clone(verbs), "head", "options")
	}
	for _, verb := range verbs {
		op := newOperation(r, collection(r)+"/{name}/"+sub.Name, verb, title(sub.Name), def)
		op.kind, op.description = gvk, describeSub(r, sub.Name, verb)
		switch {
		case sub.Name == "log":
			// It gives text, not the pod that discovery tells of.
			op.options, op.answer, op.produces = []string{"io.k8s.api.core.v1.PodLogOptions"}, "", []string{"text/plain"}
		case strings.HasSuffix(sub.Kind, "Options"):
			op = stream(r, op, sub.Name, def)
		}
		if sub.Name == "proxy" {
			below := op
			below.path, below.id = op.path+"/{path}", op.id+"WithPath"
			ops = append(ops, below)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// stream makes of op one that becomes a stream, such as exec. What it wants is in the query, not in a body.
func stream(r *api.Resource, op operation, sub, options string) operation {
	op.id = "connect" + groupID(r) + title(op.method) + scopeID(r) + r.Kind + title(sub)
	op.action, op.description = "connect", fmt.Sprintf("connect %s requests to %s of %s", strings.ToUpper(op.method), sub, r.Kind)
	op.options, op.body, op.accepts = []string{options}, "", nil
	op.answer, op.produces, op.codes = "", typesAny, []string{"200"}
	return op
}

// newOperation returns what a verb does with a kind. The sub is the last part of the operation's id.
func newOperation(r *api.Resource, path, verb, sub, kind string) operation {
	op := operation{
		path: path, method: verb, kind: r.GroupVersionKind(), tag: tag(r), action: verb, description: describe(r, verb),
		answer: kind, produces: typesObject, codes: []string{"200"},
	}
	word := verb
	switch verb {
	case "get":
		word = "read"
	case "list":
		op.method, op.options, op.produces = "get", []string{listOptions}, typesList
	case "create":
		op.method, op.action, op.options, op.body, op.accepts = "post", "post", []string{createOptions}, kind, typesAny
		op.codes = []string{"200", "201", "202"}
	case "update":
		op.method, op.action, word = "put", "put", "replace"
		op.options, op.body, op.accepts = []string{updateOptions}, kind, typesAny
		op.codes = []string{"200", "201"}
	case "patch":
		op.options, op.body, op.accepts = []string{patchOptions}, patchBody, typesPatch
		op.codes = []string{"200", "201"}
	case "delete":
		op.options, op.body, op.accepts = []string{deleteOptions}, deleteOptions, typesAny
		op.codes = []string{"200", "202"}
		if !r.ShowsDeleted {
			op.answer = status
		}
	case "deletecollection":
		op.method, op.options, op.body, op.accepts = "delete", []string{deleteOptions, listOptions}, deleteOptions, typesAny
		op.omitted = []string{"watch", "allowWatchBookmarks"}
	}
	op.id = word + groupID(r) + scopeID(r) + r.Kind + sub
	if r.Custom {
		op.produces = without(op.produces, "protobuf")
		op.accepts = without(op.accepts, "strategic")
	}
	return op
}

// without leaves out the media types that a custom resource has no form in, or no rules for.
func without(types []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(types), func(t string) bool { return strings.Contains(t, word) })
}

// definitionOf returns the name of a kind's definition, which its Go type knows. A custom kind's is made of what it is called.
func definitionOf(r *api.Resource, gvk schema.GroupVersionKind) (string, error) {
	if r.Custom && gvk.GroupVersion() == r.GroupVersion() {
		return customName(gvk), nil
	}
	obj, err := api.Scheme.New(gvk)
	if err != nil {
		return "", err
	}
	named, ok := obj.(util.OpenAPIModelNamer)
	if !ok {
		return "", fmt.Errorf("%T has no OpenAPI name", obj)
	}
	return named.OpenAPIModelName(), nil
}

// root is where a resource's group version is: "/apis/apps/v1".
func root(r *api.Resource) string {
	if r.Group == "" {
		return "/api/" + r.Version
	}
	return "/apis/" + r.Group + "/" + r.Version
}

func collection(r *api.Resource) string {
	if r.Namespaced {
		return root(r) + "/namespaces/{namespace}/" + r.Name
	}
	return root(r) + "/" + r.Name
}

// groupID is the group version in an operation's id: "RbacAuthorizationV1".
func groupID(r *api.Resource) string {
	return groupWords(r) + title(r.Version)
}

// tag is "rbacAuthorization_v1".
func tag(r *api.Resource) string {
	words := groupWords(r)
	return strings.ToLower(words[:1]) + words[1:] + "_" + r.Version
}

func groupWords(r *api.Resource) string {
	if r.Group == "" {
		return "Core"
	}
	parts := strings.Split(strings.TrimSuffix(r.Group, ".k8s.io"), ".")
	for i := range parts {
		parts[i] = title(parts[i])
	}
	return strings.Join(parts, "")
}

func scopeID(r *api.Resource) string {
	if r.Namespaced {
		return "Namespaced"
	}
	return ""
}

func title(s string) string {
	return strings.ToUpper(s[:1]) + s[1:]
}

// uses returns the names of the definitions that documents of the operations must have.
func uses(ops []operation) iter.Seq[string] {
	var names []string
	for _, op := range ops {
		used := []string{op.body, op.answer}
		if slices.ContainsFunc(op.produces, isWatch) {
			used = append(used, watchEvent)
		}
		for _, name := range used {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return slices.Values(names)
}
