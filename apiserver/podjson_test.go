package apiserver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/store"
)

// A pod that is put together of texts which are known reads as if the encoder had written it.
func TestPodsAreWrittenAsTheEncoderDoes(t *testing.T) {
	row, rnd := podRow(), rand.New(rand.NewPCG(1, 2))
	sh, a := newShelf(row, &encodings{most: keptEncodings}), alike{}
	for n := range 300 {
		pod := someObject(row, rnd).(*corev1.Pod)
		pod.Namespace, pod.Name = "default", fmt.Sprintf("p%d", n)
		pod.Annotations = map[string]string{"a": []string{"", "<&>\u2028", `"managedFields":[],"spec":{}`}[rnd.IntN(3)]}
		for i := range rnd.IntN(4) {
			e := metav1.ManagedFieldsEntry{Subresource: []string{"", "status", "<"}[rnd.IntN(3)]}
			if i > 0 {
				e.Manager, e.Time = "me", &pod.CreationTimestamp
			}
			if rnd.IntN(4) > 0 {
				e.FieldsV1 = metav1.NewFieldsV1([]string{`{}`, `{"f:spec":{"f:a":{}}}`, `{ "f:<": {} }`}[rnd.IntN(3)])
			}
			pod.ManagedFields = append(pod.ManagedFields, e)
		}
		data, err := marshalStored(pod)
		if err != nil {
			t.Fatal(err)
		}
		for again := range 2 { // The second time its texts are known.
			it, err := a.newItem(sh, "default/"+pod.Name, store.KV{Key: "pods/default/" + pod.Name, Rev: 7, Value: data})
			if err != nil {
				t.Fatal(err)
			}
			if it.spec == nil {
				t.Fatal("a small spec is not remembered")
			}
			var want bytes.Buffer
			if err := jsonSerializer.Encode(it.obj, &want); err != nil {
				t.Fatal(err)
			}
			got, err := it.makeJSON()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.String(), string(got)+"\n"); diff != "" {
				t.Fatalf("pod %d, time %d (-want +got):\n%s", n, again, diff)
			}
		}
	}
}

// What is remembered of texts is bounded, and is forgotten with all others.
func TestTextsAreBounded(t *testing.T) {
	var known texts
	for i := range 100 {
		if _, err := known.of(&metav1.LabelSelector{MatchLabels: map[string]string{"a": strings.Repeat("x", maxAlike/32+i)}}); err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, text := range known.known {
			size += len(text)
		}
		if size != known.size || size > maxAlike || size == 0 {
			t.Fatalf("after %d texts %d bytes are remembered, and %d counted; the bound is %d", i+1, size, known.size, maxAlike)
		}
	}
	k := encodings{texts: texts{known: known.known, size: known.size}}
	if k.dropAll(); len(k.texts.known) != 0 {
		t.Error("some are not forgotten")
	}
}
