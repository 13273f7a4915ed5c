package apiserver

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// podParts are the bytes of a stored pod: what it has of its own, which is again the message of a pod, and what others may have, too.
type podParts struct {
	own      []byte
	metadata [][]byte // Each all labels, all annotations and so on: the message of metadata with one field.
	spec     []byte
}

// Fields by the numbers that generated.proto of k8s.io/api/core/v1 and of k8s.io/apimachinery/pkg/apis/meta/v1 give them.
const (
	podMetadata protowire.Number = 1
	podSpec     protowire.Number = 2

	podAnnotations protowire.Number = 12 // Of its metadata.
)

// inCommon tells which fields of its metadata a pod may have in common with others: labels, annotations, owners, finalizers and
// managed fields, which are written last.
func inCommon(field protowire.Number) bool {
	return slices.Contains([]protowire.Number{11, podAnnotations, 13, 14, 17}, field)
}

// splitPod splits the stored form of a pod. What is its own is appended to own.
func splitPod(own, data []byte) (podParts, error) {
	parts := podParts{own: own}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeField(data)
		if n < 0 {
			return parts, protowire.ParseError(n)
		}
		field := data[:n]
		data = data[n:]
		switch {
		case kind != protowire.BytesType:
			parts.own = append(parts.own, field...)
		case number == podMetadata && parts.metadata == nil:
			var metadata []byte
			metadata, parts.metadata = splitMetadata(message(field))
			parts.own = protowire.AppendBytes(protowire.AppendTag(parts.own, number, kind), metadata)
		case number == podSpec && parts.spec == nil:
			parts.spec = message(field)
		default:
			parts.own = append(parts.own, field...)
		}
	}
	return parts, nil
}

// message is what is in a field that holds one.
func message(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	data, _ := protowire.ConsumeBytes(field[n:])
	return data
}

// splitMetadata splits metadata in front of what may be in common, and this by its fields. Where they are not written as Kubernetes
// does it, in the order of their numbers, they are all the pod's own.
func splitMetadata(data []byte) (own []byte, runs [][]byte) {
	own = data
	last, begin := protowire.Number(0), 0 // Of the present run.
	for at := 0; at < len(data); {
		number, _, n := protowire.ConsumeField(data[at:])
		if n < 0 || number < last || number > last && runs != nil && !inCommon(number) {
			return data, nil
		}
		if number > last && inCommon(number) {
			if runs == nil {
				own = data[:at]
			}
			runs, begin = append(runs, nil), at
		}
		at, last = at+n, number
		if runs != nil {
			runs[len(runs)-1] = data[begin:at]
		}
	}
	return own, runs
}
