// Package openapi describes the API in OpenAPI, version 3 and 2: what kubectl reads to explain a kind, to know whether the
// server validates fields, and to compute a strategic patch.
//
// A document has two halves. The definitions, one a Go type, come from Kubernetes' own types, comments and markers. They are
// made beforehand (see the folder generate) and embedded as compressed JSON, which is never decoded for OpenAPI v3: a
// document is a list of definitions, copied. The paths come from the rows of the API server's table.
//
// Nothing is unpacked or built before somebody asks. A document is then kept until it is forgotten; as the table does not change,
// it is the same when it is built again.
//
// In Kubernetes: k8s.io/kube-openapi (builder, builder3, handler, handler3) and pkg/generated/openapi. Left out: documents of
// discovery and of /openid/v1/jwks, and the deprecated /watch/ paths.
package openapi

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"github.com/munnerz/goautoneg"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/handler3"

	"skiff/api"
)

// Documents are the OpenAPI documents of an API. They are safe for concurrent use.
type Documents struct {
	unpacked    *remade[definitions]
	definitions source                 // What is unpacked.
	own         map[string][]operation // Of the table's rows, by the path of the group version: "api/v1", "apis/apps/v1"; and of "version".
	custom      map[string][]*Custom   // What is described besides them.
	index       *document
	v3          map[string]*document
	v2          *document
}

// source gives the definitions of Go types. Documents are built from it, and from nothing that refers to other documents: one that
// is never asked for must not keep those in memory that it was made after.
type source func() (definitions, error)

// New returns the documents that describe the resources. It fails if the scheme lacks a kind that a row names.
func New(resources []*api.Resource) (*Documents, error) {
	d := &Documents{unpacked: &remade[definitions]{make: unpack}, own: map[string][]operation{}, v3: map[string]*document{}}
	d.definitions = d.unpacked.get
	for _, r := range resources {
		ops, err := operations(r)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", r.GroupResource(), err)
		}
		key := strings.TrimPrefix(root(r), "/")
		d.own[key] = append(d.own[key], ops...)
	}
	d.own["version"] = []operation{codeVersion}
	from, own := d.definitions, d.own
	for key, ops := range own {
		d.v3[key] = newDocument(func() ([]byte, error) { return from.buildV3(ops, nil) }, protoV3)
	}
	d.v2 = newDocument(func() ([]byte, error) { return from.buildV2(own, nil) }, protoV2)
	d.index = newDocument(d.buildIndex, nil)
	return d, nil
}

// Definitions returns the JSON schema of every Go type of the API by its name, "io.k8s.api.apps.v1.Deployment". References
// are those of OpenAPI v3. The caller must not change what it gets.
func (d *Documents) Definitions() (map[string]json.RawMessage, error) {
	return d.definitions()
}

// Index answers GET /openapi/v3: where the document of each group version is. Each address has the hash of what is there, so
// that a client may keep a document for ever.
func (d *Documents) Index(w http.ResponseWriter, r *http.Request) error {
	return d.index.serve(w, r, "application/json")
}

// GroupVersion answers GET /openapi/v3/api/v1, /openapi/v3/apis/apps/v1 and so on.
func (d *Documents) GroupVersion(w http.ResponseWriter, r *http.Request) error {
	key := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	doc, ok := d.v3[key]
	if !ok {
		return failure(http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("there is no OpenAPI document of %q", key))
	}
	if hash := r.URL.Query().Get("hash"); hash != "" {
		current, err := doc.json()
		if err != nil {
			return err
		}
		if hash != current.hash {
			http.Redirect(w, r, address(key, current.hash), http.StatusMovedPermanently)
			return nil
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	return doc.serve(w, r, "application/json", typeProtoV3, typeProtoV3Old)
}

// V2 answers GET /openapi/v2: the whole API in one document.
func (d *Documents) V2(w http.ResponseWriter, r *http.Request) error {
	return d.v2.serve(w, r, "application/json", typeProtoV2, typeProtoV2Old)
}

// Each protobuf form goes by two names. Clients still ask for the old one, which is no well-formed media type; the answer is
// called by the new one.
const (
	typeProtoV2    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	typeProtoV2Old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	typeProtoV3    = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	typeProtoV3Old = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

func (d *Documents) buildIndex() ([]byte, error) {
	index := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for key, doc := range d.v3 {
		current, err := doc.json()
		if err != nil {
			return nil, err
		}
		index.Paths[key] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: address(key, current.hash)}
	}
	return json.Marshal(index)
}

func address(key, hash string) string {
	return "/openapi/v3/" + key + "?" + url.Values{"hash": {hash}}.Encode()
}

// Forget drops what can be built again from what is embedded: all but the index, which kubectl asks for with every command.
func (d *Documents) Forget() {
	for _, doc := range d.v3 {
		doc.forget()
	}
	d.v2.forget()
	d.unpacked.forget()
}

// document is built when it is first asked for.
type document struct {
	asJSON, asProto remade[content]
}

type content struct {
	data []byte
	hash string // Of the JSON form, whichever form this is.
}

func newDocument(build func() ([]byte, error), toProto func([]byte) ([]byte, error)) *document {
	doc := &document{}
	doc.asJSON.make = func() (content, error) {
		data, err := build()
		return content{data, fmt.Sprintf("%X", sha512.Sum512(data))}, err
	}
	doc.asProto.make = func() (content, error) {
		c, err := doc.json()
		if err != nil {
			return c, err
		}
		c.data, err = toProto(c.data)
		return c, err
	}
	return doc
}

func (doc *document) json() (content, error)  { return doc.asJSON.get() }
func (doc *document) proto() (content, error) { return doc.asProto.get() }

func (doc *document) forget() {
	doc.asJSON.forget()
	doc.asProto.forget()
}

// remade is made when it is first asked for, and again when it was forgotten.
type remade[T any] struct {
	make func() (T, error)

	mu   sync.Mutex
	made func() (T, error) // nil before it is asked for.
}

func (r *remade[T]) get() (T, error) {
	r.mu.Lock()
	if r.made == nil {
		r.made = sync.OnceValues(r.make)
	}
	made := r.made
	r.mu.Unlock()
	return made()
}

func (r *remade[T]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = nil
}

// serve answers in the one of the media types that the client likes best; with 304, if it has the document.
func (doc *document) serve(w http.ResponseWriter, r *http.Request, types ...string) error {
	chosen := types[0]
	if accept := r.Header.Get("Accept"); accept != "" {
		chosen = goautoneg.Negotiate(accept, types)
	}
	var c content
	var err error
	switch chosen {
	case "":
		return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"only the following media types are accepted: "+strings.Join(types, ", "))
	case "application/json":
		c, err = doc.json()
	default:
		c, err = doc.proto()
	}
	if err != nil {
		return fmt.Errorf("build an OpenAPI document: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", strings.Replace(chosen, "@", ".", 1))
	h.Set("Etag", `"`+c.hash+`"`)
	h.Set("Vary", "Accept")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.data))
	return nil
}

func failure(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}}
}

func protoV3(doc []byte) ([]byte, error) {
	parsed, err := openapi_v3.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}

func protoV2(doc []byte) ([]byte, error) {
	parsed, err := openapi_v2.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}
