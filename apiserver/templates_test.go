package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const templateText = `{"nodeSelector":{"spec":"}"},"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"0.10"}},"env":[],"args":["\"{\\"]}]}`

// FuzzTemplates holds that a pod reads as it does to whoever knows no others, and that its sender is told the same.
func FuzzTemplates(f *testing.F) {
	for _, text := range []string{
		`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"spec":"x"}},"spec":` + templateText + `}`,
		`{"spec": ` + templateText + `,"metadata":{"name":"p"}}`,
		`{"spec":` + templateText + `,"nothing":1}`,
		`{"spec":` + templateText + `,"metadata":{"name":"p","name":"q"}}`,
		`{"spec":` + templateText + `,"spec":{}}`,
		`{"spec":{},"sp\u0065c":` + templateText + `}`,
		`{"Spec":` + templateText + `}`,
		`{"spec":[` + templateText + `]}`,
		`{"spec":null,"status":` + templateText + `}`,
		`{"spec":1 ` + templateText + `}`,
		`{"spec" ` + templateText + `}`,
		`["spec",` + templateText + `]`,
		`{"spec":` + templateText + `}}`,
		`{"spec":` + templateText + `} {"spec":{}}`,
		`{"kind":"Service","apiVersion":"v1","spec":` + templateText + `}`,
		`{"spec":{"containers":[{"name":"c","nothing":1}]}}`,
		`{"spec":{"containers":7}}`, `{"spec":{`, `{"spec`, `{`, ``,
	} {
		f.Add([]byte(text), byte(0))
		f.Add([]byte(text), byte(1))
		f.Add([]byte(text), byte(2))
	}
	row := podRow()
	plain := readerOf(row)
	f.Fuzz(func(t *testing.T, text []byte, level byte) {
		levels := []string{metav1.FieldValidationWarn, metav1.FieldValidationStrict, metav1.FieldValidationIgnore}
		wanted := newValidation(levels[int(level)%len(levels)])
		want, wantErr := plain(text, typeJSON, wanted)
		var known templates
		for range 2 {
			if _, err := known.reader(plain)([]byte(`{"spec":`+templateText+`}`), typeJSON, newValidation("")); err != nil {
				t.Fatal(err)
			}
		}
		if len(known.specs.known) != 1 {
			t.Fatal("the template is not known")
		}
		if want != nil {
			row.Default(want)
		}
		for range 3 { // The third time this one is known, too.
			v := newValidation(wanted.level)
			got, err := known.reader(plain)(text, typeJSON, v)
			if got != nil {
				row.Default(got) // Which must not reach what is remembered.
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("it reads differently (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wanted.warnings, v.warnings); diff != "" {
				t.Errorf("other warnings (-want +got):\n%s", diff)
			}
			if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Errorf("error %v, want %v", err, wantErr)
			}
		}
	})
}

// Two pods of one template have nothing in common that one of them could change.
func TestTemplates(t *testing.T) {
	var known templates
	reads := 0
	read := known.reader(func(body []byte, contentType string, v *validation) (runtime.Object, error) {
		reads += len(body)
		return readerOf(podRow())(body, contentType, v)
	})
	body := []byte(`{"spec":` + templateText + `}`)
	pod := func() *corev1.Pod {
		obj, err := read(body, typeJSON, newValidation(""))
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*corev1.Pod)
	}
	pod()
	first := pod()
	if reads != 2*len(body) {
		t.Errorf("%d bytes were read, want %d twice", reads, len(body))
	}
	want := first.DeepCopy()
	for range 2 {
		first.Spec.Containers[0].Image, first.Spec.NodeSelector["spec"] = "changed", "changed"
		if first = pod(); !cmp.Equal(want, first) {
			t.Errorf("another pod differs (-want +got):\n%s", cmp.Diff(want, first))
		}
	}
	if most := 2*len(body) + 2*len(`{"spec":{}}`); reads != most {
		t.Errorf("%d bytes were read in all, want %d", reads, most)
	}
}
