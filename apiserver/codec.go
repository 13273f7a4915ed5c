package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// The media types that skiff speaks.
const (
	typeJSON  = "application/json"
	typeYAML  = "application/yaml"
	typeProto = "application/vnd.kubernetes.protobuf"
)

// maxBody bounds what one request may send, as Kubernetes bounds it.
const maxBody = 3 << 20

var (
	jsonSerializer   = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{})
	prettySerializer = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Pretty: true})
	strictSerializer = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Strict: true})
	yamlSerializer   = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Yaml: true})
	strictYAML       = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	protoSerializer  = protobuf.NewSerializer(api.Scheme, api.Scheme)
)

// format is how a client wants its answer.
type format struct {
	media string // typeJSON, typeYAML or typeProto.
	as    string // "Table", "PartialObjectMetadata", "PartialObjectMetadataList", ... or "" for the object itself.
	param map[string]string
}

// negotiate picks the first answer format of the Accept header that the server can give. allowed names the
// transformations ("as=...") that this endpoint knows.
func negotiate(r *http.Request, allowed ...string) (format, error) {
	header := r.Header.Get("Accept")
	if header == "" {
		return format{media: typeJSON}, nil
	}
	for part := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		switch media {
		case "*/*", "application/*":
			media = typeJSON
		case typeJSON, typeYAML, typeProto:
		default:
			continue
		}
		f := format{media: media, param: params}
		if as := params["as"]; as != "" {
			if params["v"] != "v1" || params["g"] != metav1.GroupName || !contains(allowed, as) {
				continue
			}
			f.as = as
		}
		return f, nil
	}
	return format{}, notAcceptable(header)
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

func notAcceptable(accept string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: fmt.Sprintf("only the following media types are accepted: %s, %s, %s (Accept was %q)", typeJSON, typeYAML, typeProto, accept),
	}}
}

func unsupportedMediaType(got string, want ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s (Content-Type was %q)", strings.Join(want, ", "), got),
	}}
}

// encode writes obj, whose TypeMeta is set, in the media type.
func encode(w io.Writer, media string, pretty bool, obj runtime.Object) error {
	switch {
	case media == typeProto:
		return protoSerializer.Encode(obj, w)
	case media == typeYAML:
		return yamlSerializer.Encode(obj, w)
	case pretty:
		return prettySerializer.Encode(obj, w)
	}
	return jsonSerializer.Encode(obj, w)
}

// readBody reads a request's body within its bound.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the request's body: %v", err))
	}
	if len(body) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return body, nil
}

// validation is what a client asked to be done about fields that do not exist or stand twice: the fieldValidation
// parameter of writes. Warnings are collected for the answer's headers.
type validation struct {
	level    string
	warnings []string
}

func fieldValidation(r *http.Request) (*validation, error) {
	level := r.URL.Query().Get("fieldValidation")
	switch level {
	case "":
		level = metav1.FieldValidationWarn
	case metav1.FieldValidationStrict, metav1.FieldValidationWarn, metav1.FieldValidationIgnore:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("fieldValidation: Unsupported value: %q: supported values: \"Ignore\", \"Strict\", \"Warn\"", level))
	}
	return &validation{level: level}, nil
}

// judge decides what becomes of a strict decoding error.
func (v *validation) judge(gvk schema.GroupVersionKind, err error) error {
	if v.level == metav1.FieldValidationStrict {
		return decodeError(gvk, err)
	}
	strict, ok := runtime.AsStrictDecodingError(err)
	if ok && v.level == metav1.FieldValidationWarn {
		for _, e := range strict.Errors() {
			v.warnings = append(v.warnings, e.Error())
		}
	}
	return nil
}

// send puts the warnings where kubectl prints them from: https://kubernetes.io/docs/reference/using-api/#warnings
func (v *validation) send(w http.ResponseWriter) {
	for _, text := range v.warnings {
		w.Header().Add("Warning", fmt.Sprintf("299 - %q", text))
	}
}

func decodeError(gvk schema.GroupVersionKind, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, gvk.Kind, err))
}

// decode reads an object of the wanted kind out of body.
func decode(body []byte, contentType string, want schema.GroupVersionKind, v *validation) (runtime.Object, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		media, err = typeJSON, nil
	}
	if err != nil {
		return nil, unsupportedMediaType(contentType, typeJSON, typeYAML, typeProto)
	}
	var decoder runtime.Decoder
	switch media {
	case typeJSON:
		decoder = pick(v, jsonSerializer, strictSerializer)
	case typeYAML:
		decoder = pick(v, yamlSerializer, strictYAML)
	case typeProto:
		decoder = protoSerializer
	default:
		return nil, unsupportedMediaType(contentType, typeJSON, typeYAML, typeProto)
	}
	obj, got, err := decoder.Decode(body, &want, nil)
	if err != nil && (obj == nil || !runtime.IsStrictDecodingError(err)) {
		if got == nil {
			got = &want
		}
		return nil, decodeError(*got, err)
	}
	if *got != want {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: the request's path is of %s", got.Kind, got.Version, want.Kind, want))
	}
	if err != nil {
		if err := v.judge(want, err); err != nil {
			return nil, err
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, nil
}

func pick(v *validation, lax, strict runtime.Decoder) runtime.Decoder {
	if v == nil || v.level == metav1.FieldValidationIgnore {
		return lax
	}
	return strict
}

// respond writes obj as the answer, in the format that the client asked for.
func respond(w http.ResponseWriter, r *http.Request, code int, obj runtime.Object) error {
	f, err := negotiate(r)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := encode(&buf, f.media, wantsPretty(r), obj); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return respondBytes(w, f.media, code, buf.Bytes())
}

func respondBytes(w http.ResponseWriter, media string, code int, body []byte) error {
	w.Header().Set("Content-Type", media)
	w.WriteHeader(code)
	_, _ = w.Write(body) // A client that went away is not an error of ours.
	return nil
}

// wantsPretty tells whether a person reads: kubectl and other programs do not care for indentation.
func wantsPretty(r *http.Request) bool {
	switch r.URL.Query().Get("pretty") {
	case "1", "true":
		return true
	}
	return false
}
