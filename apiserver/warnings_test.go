package apiserver

import (
	"slices"
	"strings"
	"testing"
)

// What is valid but odd is stored, and who writes it is warned, each time.
func TestWarningsOfOddObjects(t *testing.T) {
	s := start(t)
	odd := func(a answer) bool {
		return slices.ContainsFunc(a.header.Values("Warning"), func(text string) bool {
			return strings.Contains(text, `spec.externalName is ignored when spec.type is not \"ExternalName\"`)
		})
	}
	if !odd(s.do(t, "POST", servicesPath, serviceJSON("a", `"externalName":"a.b"`)).want(t, 201)) {
		t.Error("whoever made it was not warned")
	}
	if !odd(s.do(t, "PATCH", servicesPath+"/a", `{"metadata":{"labels":{"a":"b"}}}`, merge...).want(t, 200)) {
		t.Error("whoever changed it was not warned")
	}
	if a := s.do(t, "PATCH", servicesPath+"/a", `{"spec":{"externalName":null}}`, merge...).want(t, 200); len(a.header.Values("Warning")) > 0 {
		t.Errorf("whoever mended it was warned of %q", a.header.Values("Warning"))
	}
	if a := s.do(t, "PATCH", servicesPath+"/a/status", `{"status":{"loadBalancer":null}}`, merge...).want(t, 200); len(a.header.Values("Warning")) > 0 {
		t.Errorf("whoever wrote the status was warned of %q", a.header.Values("Warning"))
	}
}
