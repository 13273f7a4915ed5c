package apiserver

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"

	"skiff/api"

	"k8s.io/apimachinery/pkg/runtime"
)

// document is an answer that is written in parts. A list is sent as the encodings that its items have: put together first,
// each list that is under way would take as much memory as the objects themselves.
type document struct {
	size  int // In bytes; unknown, where it would cost as much to find out as to write it.
	write func(to io.Writer) error
}

const unknown = -1

// newDocument measures what write writes.
func newDocument(write func(to io.Writer) error) (document, error) {
	var size counter
	err := write(&size)
	return document{int(size), write}, err
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
// of ours. What cannot be written whole is broken off, so that nobody takes it for all.
func (d document) respond(w http.ResponseWriter, r *http.Request, media string, code int) {
	answer := begin(w, r, media, code, d.size)
	out := bufio.NewWriterSize(answer, gathered)
	if err := d.write(out); err != nil {
		slog.Error("an answer is broken off", "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
	_ = out.Flush()
	_ = answer.Close()
}

// bytes puts the document together.
func (d document) bytes() ([]byte, error) {
	all := bytes.NewBuffer(make([]byte, 0, max(d.size, 0)))
	err := d.write(all)
	return all.Bytes(), err
}

// longList is from how many bytes of objects, as stored, a list is encoded while it is written, and no item keeps what it
// reads like: all would not fit into what the server keeps, and push out what is asked for more often.
const longList = keptEncodings / 2

func (p page) isLong() bool { return p.stored() > longList }

// stored is how many bytes its objects have, as stored.
func (p page) stored() int {
	size := 0
	for _, it := range p.items {
		size += it.size
	}
	return size
}

// encodings are those of a page's items, in order. Those of a list that is not long are there before an answer begins, as no
// error can come after.
func (p page) encodings(kept, once func(*item) ([]byte, error)) (iter.Seq2[[]byte, error], error) {
	if p.isLong() {
		return func(yield func([]byte, error) bool) {
			for _, it := range p.items {
				if b, err := once(it); !yield(b, err) {
					return
				}
			}
		}, nil
	}
	all := make([][]byte, 0, len(p.items))
	for _, it := range p.items {
		b, err := kept(it)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return func(yield func([]byte, error) bool) {
		for _, b := range all {
			if !yield(b, nil) {
				return
			}
		}
	}, nil
}

// listJSON joins the items' own JSON, less their kind and apiVersion, which Kubernetes' lists leave out.
func listJSON(r *api.Resource, p page) (document, error) {
	meta, err := json.Marshal(p.meta())
	if err != nil {
		return document{}, err
	}
	items, err := p.encodings((*item).jsonBytes, (*item).jsonOnce)
	if err != nil {
		return document{}, err
	}
	apiVersion := r.GroupVersion().String()
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, cmp.Or(r.ListKind, r.Kind+"List"), apiVersion, meta)
	typed := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, r.Kind, apiVersion)
	comma, brace, end := []byte(","), []byte("{"), []byte("]}\n")
	write := func(to io.Writer) error {
		_, _ = to.Write(head)
		between := []byte(nil)
		for b, err := range items {
			if err != nil {
				return err
			}
			_, _ = to.Write(between)
			if rest, ok := bytes.CutPrefix(b, typed); ok {
				_, _ = to.Write(brace)
				b = rest
			}
			_, _ = to.Write(b)
			between = comma
		}
		_, _ = to.Write(end)
		return nil
	}
	if p.stored() >= gzipFrom { // To measure it would be to look at each item's text twice, and twice it would be far away.
		return document{unknown, write}, nil
	}
	return newDocument(write)
}

// listProto does the same in protobuf: every list message has its metadata in field 1 and its items in field 2. A message's size
// stands before it, and can be known without writing it.
func listProto(r *api.Resource, p page) (document, error) {
	meta := p.meta()
	head, err := meta.Marshal()
	if err != nil {
		return document{}, err
	}
	items, err := p.encodings((*item).protoBytes, (*item).protoOnce)
	if err != nil {
		return document{}, err
	}
	list := document{size: 0}
	first := appendField(nil, 1, head)
	list.size = len(first)
	room := make([]byte, 0, 16)
	for _, it := range p.items {
		n, err := it.protoSize()
		if err != nil {
			return document{}, err
		}
		list.size += len(appendFieldHead(room, 2, n)) + n
	}
	list.write = func(to io.Writer) error {
		_, _ = to.Write(first)
		room := make([]byte, 0, 16)
		for b, err := range items {
			if err != nil {
				return err
			}
			_, _ = to.Write(appendFieldHead(room, 2, len(b)))
			_, _ = to.Write(b)
		}
		return nil
	}
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
	return document{len(head) + d.size + len(end), func(to io.Writer) error {
		_, _ = to.Write(head)
		err := d.write(to)
		_, _ = to.Write(end)
		return err
	}}, nil
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
