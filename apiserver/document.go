package apiserver

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"skiff/api"

	"k8s.io/apimachinery/pkg/runtime"
)

// document is an answer that is written in parts. A list is sent as the encodings that its items have: put together first,
// each list that is under way would take as much memory as the objects themselves.
type document struct {
	size  int                // In bytes.
	write func(to io.Writer) // What goes wrong is to's to remember.
}

// newDocument measures what write writes.
func newDocument(write func(to io.Writer)) document {
	var size counter
	write(&size)
	return document{int(size), write}
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// gathered is how much is gathered before it is sent: items are small, and each write costs. It is what fits into one record of
// TLS behind the head of an HTTP/2 frame. What is longer net/http cuts into frames of 16 KiB, which with their heads are a few
// bytes too long for one record: each takes two, encrypted and written to the socket one by one.
const gathered = 16<<10 - 9

// respond answers with the document. Once a write has failed the others do nothing: a client that went away is not an error
// of ours.
func (d document) respond(w http.ResponseWriter, r *http.Request, media string, code int) {
	answer := begin(w, r, media, code, d.size)
	out := bufio.NewWriterSize(answer, min(d.size, gathered))
	d.write(out)
	_ = out.Flush()
	_ = answer.Close()
}

// bytes puts the document together.
func (d document) bytes() []byte {
	all := bytes.NewBuffer(make([]byte, 0, d.size))
	d.write(all)
	return all.Bytes()
}

// encodings are those of a page's items. They are all there before an answer begins, as no error can come after.
func (p page) encodings(of func(*item) ([]byte, error)) ([][]byte, error) {
	all := make([][]byte, 0, len(p.items))
	for _, it := range p.items {
		b, err := of(it)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// listJSON joins the items' own JSON, less their kind and apiVersion, which Kubernetes' lists leave out.
func listJSON(r *api.Resource, p page) (document, error) {
	meta, err := json.Marshal(p.meta())
	if err != nil {
		return document{}, err
	}
	items, err := p.encodings((*item).jsonBytes)
	if err != nil {
		return document{}, err
	}
	apiVersion := r.GroupVersion().String()
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, cmp.Or(r.ListKind, r.Kind+"List"), apiVersion, meta)
	typed := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, r.Kind, apiVersion)
	comma, brace, end := []byte(","), []byte("{"), []byte("]}\n")
	return newDocument(func(to io.Writer) {
		_, _ = to.Write(head)
		for i, b := range items {
			if i > 0 {
				_, _ = to.Write(comma)
			}
			if rest, ok := bytes.CutPrefix(b, typed); ok {
				_, _ = to.Write(brace)
				b = rest
			}
			_, _ = to.Write(b)
		}
		_, _ = to.Write(end)
	}), nil
}

// listProto does the same in protobuf: every list message has its metadata in field 1 and its items in field 2.
func listProto(r *api.Resource, p page) (document, error) {
	meta := p.meta()
	head, err := meta.Marshal()
	if err != nil {
		return document{}, err
	}
	items, err := p.encodings((*item).protoBytes)
	if err != nil {
		return document{}, err
	}
	first := appendField(nil, 1, head)
	list := newDocument(func(to io.Writer) {
		_, _ = to.Write(first)
		room := make([]byte, 0, 16)
		for _, b := range items {
			_, _ = to.Write(appendFieldHead(room, 2, len(b)))
			_, _ = to.Write(b)
		}
	})
	return list.enveloped(r.GroupVersion().String(), r.Kind+"List")
}

// enveloped is a protobuf message in the envelope that names its kind, of which it is field 2. See envelope.
func (d document) enveloped(apiVersion, kind string) (document, error) {
	typeMeta := runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}
	named, err := typeMeta.Marshal()
	if err != nil {
		return document{}, err
	}
	head := appendField(protoMagic[:len(protoMagic):len(protoMagic)], 1, named)
	head = appendFieldHead(head, 2, d.size)
	end := []byte(envelopeEnd)
	return newDocument(func(to io.Writer) {
		_, _ = to.Write(head)
		d.write(to)
		_, _ = to.Write(end)
	}), nil
}

// appendField appends a length-delimited protobuf field.
func appendField(b []byte, number uint64, data []byte) []byte {
	return append(appendFieldHead(b, number, len(data)), data...)
}

// appendFieldHead appends what comes before the data of such a field.
func appendFieldHead(b []byte, number uint64, size int) []byte {
	const lengthDelimited = 2
	b = binary.AppendUvarint(b, number<<3|lengthDelimited)
	return binary.AppendUvarint(b, uint64(size))
}
