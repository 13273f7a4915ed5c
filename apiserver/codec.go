package apiserver

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
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

var (
	jsonSerializer   = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{})
	prettySerializer = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Pretty: true})
	laxJSON          = newJSONDecoder(false)
	strictJSON       = newJSONDecoder(true)
	yamlSerializer   = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Yaml: true})
	strictYAML       = json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	protoSerializer  = protobuf.NewSerializer(api.Scheme, api.Scheme)
)

// notAcceptable names the media types that would be.
func notAcceptable(media ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + strings.Join(media, ", "),
	}}
}

func unsupportedMediaType(got string, want ...string) *apierrors.StatusError {
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

// validation is what a client asked to be done about fields that do not exist or stand twice: the fieldValidation
// parameter of writes. Warnings are collected for the answer's headers.
type validation struct {
	level    string
	warnings []string
}

func newValidation(level string) *validation {
	if level == "" {
		level = metav1.FieldValidationWarn
	}
	return &validation{level: level}
}

// judge decides what becomes of a strict decoding error.
func (v *validation) judge(gvk schema.GroupVersionKind, err error) error {
	if v.level == metav1.FieldValidationStrict {
		return decodeError(gvk, err)
	}
	strict, ok := runtime.AsStrictDecodingError(err)
	if ok && v.level == metav1.FieldValidationWarn {
		for _, e := range strict.Errors() {
			v.warnings = append(v.warnings, lines(e)...)
		}
	}
	return nil
}

// lines are what a strict decoder has to say, one thing a line: that of YAML says all at once.
func lines(err error) []string {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	list, several := strings.CutPrefix(text, "yaml: unmarshal errors:\n")
	if !several {
		return []string{err.Error()}
	}
	all := strings.Split(list, "\n")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// beside is an error with the warnings that go with it: they are no less true for it.
func (v *validation) beside(w http.ResponseWriter, err error) error {
	v.send(w)
	return err
}

func (v *validation) send(w http.ResponseWriter) {
	for _, text := range v.warnings {
		warn(w, text)
	}
}

// unserved warns of what a pod asks for that no node can do yet. It is stored and shown, so that charts apply, and not passed
// over: the agent does not start such a pod. Of wishes that nobody looks at yet it warns, too.
func (v *validation) unserved(obj runtime.Object) {
	fields := api.Unserved(obj)
	if pod, ok := obj.(*corev1.Pod); ok {
		for i := range pod.Spec.EphemeralContainers {
			fields = append(fields, api.UnservedEphemeral(pod, &pod.Spec.EphemeralContainers[i])...)
		}
	}
	for _, field := range fields {
		v.warnings = append(v.warnings, field+": skiff cannot do this yet, and starts no pod that asks for it")
	}
	for _, field := range api.Unheeded(obj) {
		v.warnings = append(v.warnings, field+": skiff does not look at this yet; pods run as if it were not there")
	}
}

// warn puts a warning where kubectl prints it from: https://kubernetes.io/docs/reference/using-api/#warnings
//
// All warnings of an answer together are bounded, and so is each from then on, as Kubernetes bounds them: a client names the
// fields that it is warned of.
func warn(w http.ResponseWriter, text string) {
	const maxAll, maxOne = 4096, 256
	written := 0
	for _, earlier := range w.Header()["Warning"] {
		written += len(earlier)
	}
	if written >= maxAll {
		return
	}
	if runes := []rune(text); written+len(text) > maxAll && len(runes) > maxOne {
		text = string(runes[:maxOne])
	}
	w.Header().Add("Warning", fmt.Sprintf("299 - %q", text))
}

// undecodable is an error of a document that is not an object of the kind. The client is told more than why.
type undecodable struct {
	*apierrors.StatusError
	why error
}

func decodeError(gvk schema.GroupVersionKind, err error) error {
	return decodeErrorOf(gvk, gvk.Kind, err)
}

func decodeErrorOf(got schema.GroupVersionKind, want string, err error) error {
	return &undecodable{apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want, err)), err}
}

// unrecognized is the error of a body that does not even tell what it is of. It shows how the body begins.
func unrecognized(want string, body []byte, err error) error {
	const shown = 30
	begin, more := body[:min(len(body), shown)], ""
	if len(body) > shown {
		more = " ..."
	}
	text := hex.EncodeToString(begin)
	switch {
	case len(body) == 0:
		text = "<empty>"
	case body[0] == '{':
		text = string(begin)
	}
	return &undecodable{apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s%s)", want, err, text, more)), err}
}

// anotherKind is the error of an object that is not of the kind which the request's path is of. Kubernetes names the other's internal
// form, which is in the package of its group.
func anotherKind(got, want schema.GroupVersionKind) error {
	group, _, _ := strings.Cut(cmp.Or(want.Group, "core"), ".")
	return decodeErrorOf(got, want.Kind, fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", got.Version, got.Kind, group, want.Kind))
}

// decode reads an object of the wanted kind out of body.
func decode(body []byte, contentType string, want schema.GroupVersionKind, v *validation) (runtime.Object, error) {
	obj, err := decodeAny(body, contentType, want, v.level != metav1.FieldValidationIgnore)
	if err != nil && (obj == nil || !runtime.IsStrictDecodingError(err)) {
		return nil, err
	}
	if err := boundMembers(body, obj); err != nil {
		return nil, err
	}
	if got := obj.GetObjectKind().GroupVersionKind(); got != want {
		return nil, anotherKind(got, want)
	}
	if err != nil {
		return obj, v.judge(want, err)
	}
	return obj, nil
}

// decodeAny reads whatever kind body says it is; where it says nothing, it is the one given. With a strict error it
// returns the object all the same.
func decodeAny(body []byte, contentType string, otherwise schema.GroupVersionKind, strict bool) (runtime.Object, error) {
	decoder, err := decoderFor(contentType, strict)
	if err != nil {
		return nil, err
	}
	obj, got, err := decoder.Decode(body, &otherwise, nil)
	if obj == nil || err != nil && !runtime.IsStrictDecodingError(err) {
		if got == nil || got.Kind == "" {
			return nil, unrecognized(otherwise.Kind, body, err)
		}
		return nil, decodeErrorOf(*got, otherwise.Kind, err)
	}
	if got == nil {
		got = &otherwise
	}
	obj.GetObjectKind().SetGroupVersionKind(*got)
	return obj, err
}

func decoderFor(contentType string, strict bool) (runtime.Decoder, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		media, err = typeJSON, nil
	}
	switch {
	case err == nil && media == typeProto:
		return protoSerializer, nil
	case err == nil && media == typeJSON && strict:
		return strictJSON, nil
	case err == nil && media == typeJSON:
		return laxJSON, nil
	case err == nil && media == typeYAML && strict:
		return strictYAML, nil
	case err == nil && media == typeYAML:
		return yamlSerializer, nil
	}
	return nil, unsupportedMediaType(contentType, typeJSON, typeYAML, typeProto)
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
	return respondBytes(w, r, f.media, code, buf.Bytes())
}

// gzipFrom is the size from which answers are compressed for clients that like it: Kubernetes' own.
const gzipFrom = 128 << 10

func respondBytes(w http.ResponseWriter, r *http.Request, media string, code int, body []byte) error {
	return respondParts(w, r, media, code, body, nil)
}

// respondParts answers with what is in two places, so that nobody has to copy what is kept.
func respondParts(w http.ResponseWriter, r *http.Request, media string, code int, body, tail []byte) error {
	to := io.Writer(w)
	if begin(w, r, media, code, len(body)+len(tail)) {
		zipped := newMember(w)
		defer zipped.Close()
		to = zipped
	}
	_, _ = to.Write(body) // A client that went away is not an error of ours.
	if len(tail) > 0 {
		_, _ = to.Write(tail)
	}
	return nil
}

// begin begins an answer whose body has a size, or an unknown one, which is large, and tells whether it is to be compressed.
func begin(w http.ResponseWriter, r *http.Request, media string, code, size int) (zipped bool) {
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-cache, private")
	large := size == unknown || size >= gzipFrom
	if large {
		h.Add("Vary", "Accept-Encoding")
		zipped = acceptsGzip(r)
	}
	switch {
	case zipped:
		h.Set("Content-Encoding", "gzip")
	case large && size != unknown:
		h.Set("Content-Length", strconv.Itoa(size))
	}
	w.WriteHeader(code)
	return zipped
}
