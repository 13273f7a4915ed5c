package rule

import (
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// shape is how large the values of a schema may be.
type shape struct {
	least  int64             // What the smallest takes as JSON, in bytes.
	most   int64             // How many bytes a text has at most, how many items a list, how many entries a map.
	item   *shape            // Of a list's items or a map's values.
	fields map[string]*shape // Of an object, by the names that rules use.
}

// maxRequest is the size of the largest request, which bounds what the schema leaves open.
const maxRequest = 3 << 20

// The sizes of values as JSON, their quotation marks included, as Kubernetes counts them.
const (
	shortestText     = 2
	shortestBool     = 4
	shortestNumber   = 1
	shortestDuration = 3
	longestDuration  = 32
	dateSize         = 12
	shortestTime     = 21
	longestTime      = 32
)

// shapeOf is nil for a schema of which no rule can speak, as typeOf is.
func shapeOf(s *schema.Structural, isResource bool) *shape {
	switch {
	case s == nil:
		return nil
	case s.XIntOrString:
		return &shape{least: shortestNumber, most: longestText(s)}
	}
	limits := limitsOf(s)
	switch s.Type {
	case "array":
		item := shapeOf(s.Items, s.Items != nil && s.Items.XEmbeddedResource)
		if item == nil {
			return nil
		}
		return &shape{least: 2, item: item, most: orElse(limits.MaxItems, (maxRequest-2)/(item.least+1))}
	case "object":
		more := s.AdditionalProperties
		if more == nil || more.Structural == nil {
			return objectShape(s, isResource || s.XEmbeddedResource)
		}
		value := shapeOf(more.Structural, more.Structural.XEmbeddedResource)
		if value == nil {
			return nil
		}
		const around = 6 // A key of two bytes with its quotation marks, a colon and a comma.
		return &shape{least: 2, item: value, most: orElse(limits.MaxProperties, (maxRequest-2)/(value.least+around))}
	case "string":
		return textShape(s)
	case "boolean":
		return &shape{least: shortestBool}
	case "integer", "number":
		return &shape{least: shortestNumber}
	}
	return nil
}

// objectShape counts the fields that must be given: required ones without a default.
func objectShape(s *schema.Structural, isResource bool) *shape {
	o := &shape{least: 2, fields: map[string]*shape{}}
	required := map[string]bool{}
	for _, name := range limitsOf(s).Required {
		required[name] = true
	}
	for name, prop := range properties(s, isResource) {
		f := shapeOf(&prop, prop.XEmbeddedResource)
		if f == nil {
			continue
		}
		if escaped, ok := escape(name); ok {
			o.fields[escaped] = f
		}
		if required[name] && prop.Default.Object == nil {
			o.least += int64(len(name)) + f.least + 4
		}
	}
	return o
}

func textShape(s *schema.Structural) *shape {
	switch format(s) {
	case "duration":
		return &shape{least: shortestDuration, most: longestDuration}
	case "date":
		return &shape{least: dateSize, most: dateSize}
	case "date-time":
		return &shape{least: shortestTime, most: longestTime}
	case "byte":
		return &shape{least: shortestText, most: orElse(limitsOf(s).MaxLength, maxRequest-2)}
	}
	return &shape{least: shortestText, most: longestText(s)}
}

// longestText is in bytes, where schemas count characters.
func longestText(s *schema.Structural) int64 {
	const longestCharacter = 4
	limits := limitsOf(s)
	if limits.MaxLength == nil && len(limits.Enum) > 0 && !s.XIntOrString {
		longest := 0
		for _, value := range limits.Enum {
			if text, ok := value.Object.(string); ok {
				longest = max(longest, len(text))
			}
		}
		return int64(longest)
	}
	if limits.MaxLength == nil {
		return maxRequest - 2
	}
	return orElse(limits.MaxLength, 0) * longestCharacter
}

func limitsOf(s *schema.Structural) schema.ValueValidation {
	if s.ValueValidation == nil {
		return schema.ValueValidation{}
	}
	return *s.ValueValidation
}

func orElse(limit *int64, otherwise int64) int64 {
	if limit == nil {
		return otherwise
	}
	return max(*limit, 0)
}

// The longest names, and the longest beginnings of those that the server completes.
const (
	longestName      = int64(validation.DNS1123SubdomainMaxLength)
	longestBeginning = longestName - 1
)

// nameField is the schema of an object's name, which is bounded whatever its definition says.
func nameField(longest int64, said schema.Structural) schema.Structural {
	if limit := limitsOf(&said).MaxLength; limit != nil {
		longest = min(longest, *limit)
	}
	return schema.Structural{Generic: schema.Generic{Type: "string"}, ValueValidation: &schema.ValueValidation{MaxLength: &longest}}
}

// at is the shape of what a path of CEL leads to from here: names of fields, @items, @values, @keys. It is nil where that is not known.
func (s *shape) at(path []string) *shape {
	for _, name := range path {
		if s == nil {
			return nil
		}
		switch name {
		case "@items", "@values":
			s = s.item
		case "@keys":
			if s.item == nil {
				return nil
			}
			s = &shape{} // As Kubernetes has it: a key counts for nothing.
		default:
			s = s.fields[name]
		}
	}
	return s
}

// often is how many values of this shape there may be in an object, where nothing else bounds them: one and a comma after another.
func (s *shape) often() uint64 { return maxRequest / uint64(s.least+1) }
