package apiserver

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
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
	var answer io.WriteCloser
	if begin(w, r, media, code, d.size) {
		answer = newMember(w)
	} else {
		answer = plain{bufio.NewWriterSize(w, gathered)}
	}
	if err := d.write(answer); err != nil {
		slog.Error("an answer is broken off", "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
	_ = answer.Close()
}

// writeShort writes what is hardly longer than to begin to compress it.
func writeShort(to io.Writer, b []byte) {
	if m, ok := to.(*member); ok {
		m.store(b)
		return
	}
	_, _ = to.Write(b)
}

// plain is a body as it is.
type plain struct{ *bufio.Writer }

func (p plain) Close() error { return p.Flush() }

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

// listJSON joins the items' own JSON, less their kind and apiVersion, which Kubernetes' lists leave out.
func listJSON(r *api.Resource, p page) (document, error) {
	meta, err := json.Marshal(p.meta())
	if err != nil {
		return document{}, err
	}
	apiVersion := r.GroupVersion().String()
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, cmp.Or(r.ListKind, r.Kind+"List"), apiVersion, meta)
	typed := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, r.Kind, apiVersion)
	brace, end := []byte("{"), []byte("]}\n")
	items := elements{page: p, kept: (*item).jsonBytes, once: (*item).jsonOnce, at: (*item).atJSON, between: []byte(","),
		write: func(to io.Writer, encoded []byte) {
			if rest, ok := bytes.CutPrefix(encoded, typed); ok {
				_, _ = to.Write(brace)
				encoded = rest
			}
			_, _ = to.Write(encoded)
		}}
	if err := items.encode(); err != nil {
		return document{}, err
	}
	write := func(to io.Writer) error {
		writeShort(to, head)
		err := items.writeTo(to)
		writeShort(to, end)
		return err
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
	room := make([]byte, 0, 16)
	items := elements{page: p, kept: (*item).protoBytes, once: (*item).protoOnce, at: (*item).atProto,
		write: func(to io.Writer, encoded []byte) {
			_, _ = to.Write(appendFieldHead(room, 2, len(encoded)))
			_, _ = to.Write(encoded)
		}}
	if err := items.encode(); err != nil {
		return document{}, err
	}
	first := appendField(nil, 1, head)
	list := document{size: len(first)}
	for _, it := range p.items {
		n, err := it.protoSize()
		if err != nil {
			return document{}, err
		}
		list.size += len(appendFieldHead(room, 2, n)) + n
	}
	list.write = func(to io.Writer) error {
		writeShort(to, first)
		return items.writeTo(to)
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
		writeShort(to, head)
		err := d.write(to)
		writeShort(to, end)
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
