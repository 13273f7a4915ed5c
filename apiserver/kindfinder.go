package apiserver

import (
	"strings"

	"skiff/api"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
)

// jsonDecoder reads objects. Of most texts it finds the kind quickly; where anything is wrong the library reads the text from
// the beginning, in its own order, so that the words are its own.
type jsonDecoder struct{ quick, careful runtime.Decoder }

func newJSONDecoder(strict bool) jsonDecoder {
	options := json.SerializerOptions{Strict: strict}
	return jsonDecoder{
		quick:   json.NewSerializerWithOptions(kindFinder{}, api.Scheme, api.Scheme, options),
		careful: json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme, api.Scheme, options),
	}
}

func (d jsonDecoder) Decode(text []byte, otherwise *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := d.quick.Decode(text, otherwise, into)
	if err == nil || runtime.IsStrictDecodingError(err) {
		return obj, kind, err
	}
	return d.careful.Decode(text, otherwise, into)
}

// kindFinder finds out what kind of object a JSON text is of by a look at its outermost keys. The library reads the text for that
// as often as for the object itself.
type kindFinder struct{ json.SimpleMetaFactory }

// Interpret leaves to the library what does not say its kind in the plainest way. It does not see all that is wrong with a text.
func (f kindFinder) Interpret(text []byte) (*schema.GroupVersionKind, error) {
	apiVersion, kind, plain := kindIn(text)
	gv, err := schema.ParseGroupVersion(apiVersion)
	if !plain || err != nil {
		return f.SimpleMetaFactory.Interpret(text)
	}
	return &schema.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: kind}, nil
}

// kindIn reads two keys of a JSON object. It is not plain if one of them stands there twice, or has a value that is no simple text,
// or if there may be another that means the same: the library does not tell large letters from small ones.
func kindIn(object []byte) (apiVersion, kind string, plain bool) {
	depth, atKey := 0, false
	var next *string // Where the value that comes next belongs; nil if it is of another key.
	for i := 0; i < len(object); i++ {
		c := object[i]
		if depth == 1 && next != nil && strings.IndexByte("{[,}", c) >= 0 {
			return "", "", false
		}
		switch c {
		case '{', '[':
			depth++
			atKey = depth == 1
		case '}', ']':
			depth--
		case ',':
			atKey = depth == 1
		case '"':
			text := upToQuote(object[i+1:])
			i += len(text) + 1
			if depth != 1 || !atKey && next == nil {
				break
			}
			switch said := string(text); {
			case !isPlain(said):
				return "", "", false
			case !atKey:
				*next, next = said, nil
			case said == "apiVersion" && apiVersion == "":
				next, atKey = &apiVersion, false
			case said == "kind" && kind == "":
				next, atKey = &kind, false
			case strings.EqualFold(said, "apiVersion") || strings.EqualFold(said, "kind"):
				return "", "", false
			default:
				atKey = false
			}
		}
	}
	return apiVersion, kind, next == nil
}

// upToQuote is what comes before the end of a JSON string.
func upToQuote(b []byte) []byte {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i]
		}
	}
	return b
}
