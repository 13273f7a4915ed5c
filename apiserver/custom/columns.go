package custom

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"
)

// column is one that `kubectl get` prints: what stands at a JSON path.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#additional-printer-columns
type column struct {
	apiextensionsv1.CustomResourceColumnDefinition
	find finder
}

// finder finds what is at a JSON path. A jsonpath.JSONPath is for one reader at a time, so there is a pool of them.
type finder struct{ pool *sync.Pool }

func newFinder(path string) finder {
	return finder{&sync.Pool{New: func() any {
		j := jsonpath.New("path").AllowMissingKeys(true)
		if j.Parse("{"+path+"}") != nil {
			return (*jsonpath.JSONPath)(nil) // Kubernetes prints nothing then, too.
		}
		return j
	}}}
}

// first calls use with the first value at the path, if there is one.
func (f finder) first(obj map[string]any, use func(j *jsonpath.JSONPath, value any)) {
	j := f.pool.Get().(*jsonpath.JSONPath)
	defer f.pool.Put(j)
	if j == nil {
		return
	}
	found, err := j.FindResults(obj)
	if err == nil && len(found) > 0 && len(found[0]) > 0 && found[0][0].IsValid() && found[0][0].CanInterface() {
		if value := found[0][0].Interface(); value != nil {
			use(j, value)
		}
	}
}

func newColumns(defs []apiextensionsv1.CustomResourceColumnDefinition) []column {
	if len(defs) == 0 {
		defs = []apiextensionsv1.CustomResourceColumnDefinition{{
			Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp",
		}}
	}
	var columns []column
	for _, d := range defs {
		columns = append(columns, column{d, newFinder(d.JSONPath)})
	}
	return columns
}

func columnDefinitions(columns []column) []metav1.TableColumnDefinition {
	defs := []metav1.TableColumnDefinition{{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}}
	for _, c := range columns {
		description := c.Description
		if description == "" {
			description = fmt.Sprintf("Custom resource definition column (in JSONPath format): %s", c.JSONPath)
		}
		defs = append(defs, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority})
	}
	return defs
}

func printRow(columns []column, obj *unstructured.Unstructured) []any {
	cells := []any{obj.GetName()}
	for _, c := range columns {
		cells = append(cells, c.cell(obj.Object))
	}
	return cells
}

// cell is the first value at the column's path, if it is of the column's type; else nothing.
func (c column) cell(obj map[string]any) (cell any) {
	c.find.first(obj, func(j *jsonpath.JSONPath, value any) {
		if c.Type != "string" {
			cell = asType(c.Type, value)
			return
		}
		var text bytes.Buffer
		if j.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) == nil {
			cell = text.String()
		}
	})
	return cell
}

func asType(kind string, value any) any {
	switch v := value.(type) {
	case int64:
		switch kind {
		case "integer":
			return v
		case "number":
			return float64(v)
		}
	case float64:
		switch kind {
		case "integer":
			return int64(v)
		case "number":
			return v
		}
	case bool:
		if kind == "boolean" {
			return v
		}
	case string:
		if kind == "date" {
			return sinceText(v)
		}
	}
	return nil
}

// sinceText says how long ago a time was, as kubectl says it.
func sinceText(text string) string {
	var at metav1.Time
	switch err := at.UnmarshalQueryParameter(text); {
	case err != nil:
		return "<invalid>"
	case at.IsZero():
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(at.Time))
}

// selectable is a field that a field selector may name.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#field-selectors
type selectable struct {
	name string
	path []string
}

func newSelectables(defs []apiextensionsv1.SelectableField) []selectable {
	var all []selectable
	for _, d := range defs {
		all = append(all, selectable{strings.TrimPrefix(d.JSONPath, "."), steps(d.JSONPath)})
	}
	return all
}

func selectFields(selectables []selectable, obj map[string]any) fields.Set {
	set := fields.Set{}
	for _, s := range selectables {
		set[s.name] = ""
		if value, ok, err := unstructured.NestedFieldNoCopy(obj, s.path...); ok && err == nil && value != nil {
			set[s.name] = fmt.Sprint(value)
		}
	}
	return set
}
