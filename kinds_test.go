package skiff_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"skiff/api"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

var update = flag.Bool("update", false, "write what documents say of the table, instead of comparing it")

// actors says of each kind what acts on it in skiff, and what of Kubernetes does not yet. All else that the documents say
// of a kind is in the table. A kind that is idle there is said to be stored and no more; what stands here comes after.
var actors = map[string]string{
	"Binding":                   "puts a pod on a node",
	"ClusterRole":               "nothing is enforced",
	"ClusterRoleBinding":        "nothing is enforced",
	"Role":                      "nothing is enforced",
	"RoleBinding":               "nothing is enforced",
	"CertificateSigningRequest": "it gets the name of who asks, and is approved and denied; nothing signs",
	"ComponentStatus":           "the store, as `etcd-0`, when somebody asks",
	"ConfigMap":                 "the agent: environment and volumes; `kube-root-ca.crt` is made in each namespace, and `extension-apiserver-authentication` in kube-system",
	"ControllerRevision":        "stored, for who keeps a history",
	"CSIDriver":                 "stored; no driver is run yet",
	"CSINode":                   "stored; no driver is run yet",
	"CSIStorageCapacity":        "stored; no driver is run yet",
	"CustomResourceDefinition":  "the API server: the kind is served as soon as its names are accepted, and its objects go before it",
	"Deployment":                "RollingUpdate and Recreate, rollback, progress deadline (of a rollback, too), pause; a rollout loses no request: [rollouts.md](rollouts.md)",
	"EndpointSlice":             "written for each Service with a selector; read by proxy and DNS",
	"Endpoints":                 "written for each Service with a selector, 1,000 addresses at most, ready ones first; those made by hand for one without are mirrored to EndpointSlices, which are what proxy and DNS read. Either go with their Service",
	"Event":                     "written by scheduler, controllers and agent; gone after an hour",
	"Ingress":                   "stored, for an ingress controller of one's own",
	"IngressClass":              "admission: the default class of an Ingress",
	"IPAddress":                 "made for each address that a Service has, and gone with it",
	"Job":                       "its selector and labels are made",
	"Lease":                     "the nodes' heartbeats; who leads, where there are several servers",
	"LocalSubjectAccessReview":  "answered by who is let in now",
	"Namespace":                 "emptied when deleted, pods first",
	"NetworkPolicy":             "the proxy: enforced on the pod's node",
	"Node":                      "registered by the agent; marked when it falls silent, and its pods evicted; those of one that is deleted go",
	"NodeMetrics":               "the agent of the node, when somebody asks",
	"PodMetrics":                "the agent of the pod's node, when somebody asks",
	"PersistentVolume":          "bound, kept while bound, and deleted with its data where its policy says so and it is one of class `local`",
	"PersistentVolumeClaim":     "bound to a volume, or given one on a node's disk; kept while a pod uses it; may grow",
	"Pod":                       "scheduler, agent",
	"PodDisruptionBudget":       "counted, and asked before an eviction. Not yet: pods whose owner is a custom resource with a scale",
	"PodTemplate":               "stored, as in Kubernetes",
	"PriorityClass":             "admission: a pod's priority, the default class. Not yet: preemption",
	"ReplicaSet":                "makes and deletes pods",
	"ReplicationController":     "makes and deletes pods",
	"RuntimeClass":              "admission: what each pod of it takes beside its containers, and the nodes it may run on; its handler: runc, and crun where that works",
	"Secret":                    "the agent: environment, volumes, logins for pulling images; those of type `kubernetes.io/service-account-token` are filled, and go with their ServiceAccount",
	"SelfSubjectAccessReview":   "answered by who is let in now",
	"SelfSubjectReview":         "answered",
	"SelfSubjectRulesReview":    "answered by who is let in now",
	"Service":                   "proxy, DNS",
	"ServiceAccount":            "`default` is made in each namespace; tokens are signed ES256, bound to a Pod, Secret or Node if asked, and checked against `/openid/v1/jwks`, which members of the cluster may read",
	"ServiceCIDR":               "`kubernetes` is what `--service-cidr` says; of others, Services get addresses by number, and where those are full; kept while in use",
	"StorageClass":              "admission: the default class of a claim. `local`, the default of a new cluster, makes volumes on the nodes' own disks",
	"SubjectAccessReview":       "answered by who is let in now",
	"TokenReview":               "answered",
	"VolumeAttachment":          "stored; no driver is run yet",
}

// The lines of docs/compatibility.md from this one on are made from the table.
const kindsBegin = "<!-- What follows is made from the table in api/: go test . -run Kinds -update -->\n"

// madeEnd ends what is made.
const madeEnd = "<!-- As far as here. -->\n"

// TestCompatibilityKinds promises that the page has every kind that is served, as it is served.
func TestCompatibilityKinds(t *testing.T) { checkMade(t, kindsBegin, kindsTable(t)+missingKinds()) }

const selectorsBegin = "<!-- What follows is made from the table in api/: go test . -run Selectors -update -->\n"

// TestCompatibilitySelectors promises that the page has every field that objects can be selected by.
func TestCompatibilitySelectors(t *testing.T) { checkMade(t, selectorsBegin, fieldsTable()) }

// checkMade holds the lines of docs/compatibility.md between begin and [madeEnd] to what they are made from, or makes them anew.
func checkMade(t *testing.T, begin, want string) {
	t.Helper()
	const name = "docs/compatibility.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ended := strings.Cut(rest, madeEnd)
	if !ok || !ended {
		t.Fatalf("%s lacks the lines between which something is made: %q and %q", name, begin, madeEnd)
	}
	if *update {
		if err := os.WriteFile(name, []byte(before+begin+want+madeEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("%s is not of this code: run the command in %q, and look at the difference", name, begin)
	}
}

// TestActorsAreKinds promises that nothing is said of a kind that there is not, and something of each that there is.
func TestActorsAreKinds(t *testing.T) {
	kinds := map[string]bool{}
	for _, r := range api.Table() {
		kinds[r.Kind] = true
		if text := actors[r.Kind]; text == "" && !r.Idle {
			t.Errorf("nothing says what acts on a %s", r.Kind)
		}
	}
	for kind := range actors {
		if !kinds[kind] {
			t.Errorf("there is no kind %s", kind)
		}
	}
}

// kindsTable has a row for each kind, with the other versions and groups that it is seen in; kinds of which the same is to
// be said share one.
func kindsTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| group | kind | verbs | subresources | what acts on it |\n|---|---|---|---|---|\n")
	table := api.Table()
	slices.SortStableFunc(table, func(a, b *api.Resource) int { return cmp.Compare(a.Group, b.Group) })
	var kinds []string
	for i, r := range table {
		if r.View != nil {
			continue
		}
		kinds = append(kinds, r.Kind)
		line := kindLine(r, table)
		if i+1 < len(table) && table[i+1].View == nil && kindLine(table[i+1], table) == line {
			continue
		}
		fmt.Fprintf(&b, line, strings.Join(kinds, ", "))
		kinds = nil
	}
	b.WriteString("\n")
	return b.String()
}

// kindLine is the row of a kind, with a place for its name.
func kindLine(r *api.Resource, table []*api.Resource) string {
	group := func(r *api.Resource) string { return cmp.Or(r.Group, "core") }
	where := group(r)
	for _, v := range table {
		switch {
		case v.View == nil || v.View.Of.GroupVersionKind() != r.GroupVersionKind():
		case v.Group == r.Group:
			where += " (" + r.Version + ", " + v.Version + ")"
		default:
			where += ", " + group(v)
		}
	}
	var subs []string
	for _, s := range r.Subs {
		subs = append(subs, s.Name)
	}
	acts := actors[r.Kind]
	if r.Idle {
		acts = strings.TrimSuffix("stored, not acted on yet: "+acts, ": ")
	}
	return "| " + where + " | %s | " + verbs(r) + " | " + strings.Join(subs, ", ") + " | " + strings.ReplaceAll(acts, "%", "%%") + " |\n"
}

// notServed are kinds of documents that no server has under a path of theirs.
var notServed = map[string]bool{"APIGroup": true, "AdmissionReview": true, "ConversionReview": true}

// missingKinds names the kinds of Kubernetes, as client-go knows them, that no row is of: by group, those that have come to v1 there
// first. A kind of objects is one that has a list, or is answered at once.
func missingKinds() string {
	served := map[schema.GroupKind]bool{}
	for _, r := range api.Table() {
		served[r.GroupVersionKind().GroupKind()] = true
	}
	stable, other := map[string][]string{}, map[string][]string{}
	all := scheme.Scheme.AllKnownTypes()
	for gvk := range all {
		_, listed := all[gvk.GroupVersion().WithKind(gvk.Kind+"List")]
		of := other
		switch {
		case gvk.Group == "extensions" || served[gvk.GroupKind()] || notServed[gvk.Kind] || !listed && !strings.HasSuffix(gvk.Kind, "Review"):
			continue
		case gvk.Version == "v1":
			of = stable
		case scheme.Scheme.Recognizes(schema.GroupVersion{Group: gvk.Group, Version: "v1"}.WithKind(gvk.Kind)):
			continue
		}
		if group := cmp.Or(gvk.Group, "core"); !slices.Contains(of[group], gvk.Kind) {
			of[group] = append(of[group], gvk.Kind)
		}
	}
	return "Not yet: " + byGroup(stable) + ".\n\nNot served, as Kubernetes has them in alpha or beta only: " + byGroup(other) + ".\n\n"
}

// byGroup is a text of names, each with what it has.
func byGroup(groups map[string][]string) string {
	var parts []string
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		slices.Sort(groups[group])
		parts = append(parts, "of "+group+" "+strings.Join(groups[group], ", "))
	}
	return strings.Join(parts, "; ")
}

// fieldsTable has a row for each kind that knows more fields than the metadata's.
func fieldsTable() string {
	var b strings.Builder
	b.WriteString("\n| resource | field selectors, beside `metadata.name` and, within namespaces, `metadata.namespace` |\n|---|---|\n")
	for _, r := range api.Table() {
		if r.Fields == nil || r.View != nil {
			continue
		}
		fields := r.Fields(r.New())
		delete(fields, "metadata.name")
		delete(fields, "metadata.namespace")
		if len(fields) > 0 {
			fmt.Fprintf(&b, "| %s | `%s` |\n", r.Name, strings.Join(slices.Sorted(maps.Keys(fields)), "`, `"))
		}
	}
	b.WriteString("\n")
	return b.String()
}

// verbs says how many of the eight there are.
func verbs(r *api.Resource) string {
	all := []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	missing := slices.DeleteFunc(all, func(v string) bool { return slices.Contains(r.Verbs, v) })
	switch {
	case len(missing) == 0:
		return "all"
	case len(missing) < len(r.Verbs):
		return "all but " + strings.Join(missing, ", ")
	}
	return strings.Join(r.Verbs, ", ")
}
