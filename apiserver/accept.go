package apiserver

import (
	"cmp"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"skiff/api"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// format is how a client wants its answer.
type format struct {
	media string // typeJSON, typeYAML or typeProto.
	as    string // "Table", "PartialObjectMetadata", "PartialObjectMetadataList", or "" for the object itself.
	asOf  string // The version of as in meta.k8s.io: "v1" or "v1beta1", which differ in nothing but the name.
}

// kind is that of an answer which is not the object itself.
func (f format) kind(name string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: f.asOf, Kind: name}
}

// preference is one of the formats that a client accepts, and how much it likes it.
type preference struct {
	media   string
	params  map[string]string
	quality float64
}

// preferences reads an Accept header: what the client likes best comes first, in the order of the header where it likes
// two alike, and wildcards after what is named. Parts that are none are passed over, and so is what it does not want.
// https://www.rfc-editor.org/rfc/rfc9110#name-accept
func preferences(header string) []preference {
	var list []preference
	for part := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		p := preference{media, params, 1}
		if q, ok := params["q"]; ok {
			if p.quality, err = strconv.ParseFloat(q, 64); err != nil || !(p.quality > 0) {
				continue
			}
		}
		list = append(list, p)
	}
	slices.SortStableFunc(list, func(a, b preference) int {
		return cmp.Or(cmp.Compare(b.quality, a.quality), strings.Count(a.media, "*")-strings.Count(b.media, "*"))
	})
	return list
}

// negotiate picks the answer format that the client likes best of those that the server can give. allowed names the
// transformations ("as=...") that this endpoint knows.
func negotiate(r *http.Request, allowed ...string) (format, error) {
	return negotiateRow(r, nil, allowed...)
}

// negotiateRow does so for objects of a row: custom resources have no form in protobuf, but their metadata has.
func negotiateRow(r *http.Request, row *api.Resource, allowed ...string) (format, error) {
	header := r.Header.Get("Accept")
	if header == "" {
		return format{media: typeJSON}, nil
	}
	for _, p := range preferences(header) {
		switch p.media {
		case "*/*", "application/*":
			p.media = typeJSON
		case typeJSON, typeYAML, typeProto:
		default:
			continue
		}
		f := format{media: p.media}
		if as := p.params["as"]; as != "" {
			f.asOf = p.params["v"]
			known := slices.Contains([]string{"v1", "v1beta1"}, f.asOf) && p.params["g"] == metav1.GroupName && slices.Contains(allowed, as)
			if !known || as == "Table" && p.media == typeProto { // A Table has no form in protobuf.
				continue
			}
			f.as = as
		}
		if stream := p.params["stream"]; stream != "" && stream != "watch" { // Whoever may watch may also ask for what is there.
			continue
		}
		if row != nil && row.Custom && f == (format{media: typeProto}) {
			continue
		}
		return f, nil
	}
	return format{}, notAcceptable(typeJSON, typeYAML, typeProto)
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(coding) == "gzip" {
			return !slices.Contains([]string{"q=0", "q=0.0", "q=0.00", "q=0.000"}, strings.TrimSpace(q))
		}
	}
	return false
}

// wantsPretty tells whether a person reads. Where the client does not say, the programs count as Kubernetes counts them.
func wantsPretty(r *http.Request) bool {
	if asked := r.URL.Query().Get("pretty"); asked != "" {
		pretty, err := strconv.ParseBool(asked)
		return pretty || err != nil
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}
