// Command generate writes the OpenAPI definitions of the Kubernetes API types, as gzipped JSON, to the file that is its
// argument. `go generate ./apiserver/openapi` runs it, through generate.sh.
//
// Kubernetes' openapi-gen makes them from the Go types, comments and markers of k8s.io/api: first as Go code, in the folder
// definitions, which is not committed; this program runs that code and writes down what it returns. The data is a tenth of
// the code's size, and the server need not build it in memory to serve it. This folder is a module of its own, so that what
// openapi-gen needs is no dependency of skiff.
//
// In Kubernetes: hack/update-codegen.sh and pkg/generated/openapi. Left out: the kinds of versions that are not served.
package main

import (
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	builder3 "k8s.io/kube-openapi/pkg/builder3/util"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"skiff/apiserver/openapi/generate/definitions"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: generate FILE.json.gz")
	}
	if err := write(os.Args[1], schemas()); err != nil {
		log.Fatal(err)
	}
}

// schemas returns every definition under its name ("io.k8s.api.apps.v1.Deployment"), in the form that OpenAPI v3 wants.
// Those of kinds say which, as Kubernetes' do.
func schemas() map[string]*spec.Schema {
	ref := func(name string) spec.Ref { return spec.MustCreateRef("#/components/schemas/" + name) }
	kinds := kindsByName()
	all := map[string]*spec.Schema{}
	for name, def := range definitions.GetOpenAPIDefinitions(ref) {
		s := def.Schema
		delete(s.Extensions, common.ExtensionV2Schema) // Served nowhere; v2 has its own way.
		if k := kinds[name]; k != nil {
			s.AddExtension("x-kubernetes-group-version-kind", k)
		}
		// A $ref may have no neighbours in OpenAPI v3; this hides it in an allOf.
		all[name] = builder3.WrapRefs(&s)
	}
	return all
}

// kind is one value of x-kubernetes-group-version-kind.
type kind struct {
	Group   string `json:"group"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

// kindsByName returns the kinds that each definition stands for. It is one kind for most, and one in every group and
// version for those that all share, such as DeleteOptions.
func kindsByName() map[string][]kind {
	known := scheme.Scheme
	if err := errors.Join(apiextensionsv1.AddToScheme(known), metricsv1beta1.AddToScheme(known)); err != nil {
		log.Fatal(err)
	}
	kinds := map[string][]kind{}
	for gvk, t := range known.AllKnownTypes() {
		named, ok := reflect.New(t).Interface().(util.OpenAPIModelNamer)
		if !ok || gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name := named.OpenAPIModelName()
		kinds[name] = append(kinds[name], kind{gvk.Group, gvk.Kind, gvk.Version})
	}
	for _, k := range kinds {
		slices.SortFunc(k, func(a, b kind) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
		})
	}
	return kinds
}

// write gzips v as JSON. The same v gives the same bytes: maps are sorted, and the gzip header has no time.
func write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the definitions: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
