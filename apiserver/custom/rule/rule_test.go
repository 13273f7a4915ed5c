package rule

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// parseSchema reads a structural schema from YAML.
func parseSchema(t testing.TB, text string) *schema.Structural {
	t.Helper()
	var props apiextensionsv1.JSONSchemaProps
	if err := yaml.UnmarshalStrict([]byte(text), &props); err != nil {
		t.Fatal(err)
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&props, &internal, nil); err != nil {
		t.Fatal(err)
	}
	s, err := schema.NewStructural(&internal)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parseObject(t testing.TB, text string) map[string]any {
	t.Helper()
	if text == "" {
		return nil
	}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var obj map[string]any
	if err := utiljson.Unmarshal(data, &obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// boatSchema is a schema with one rule.
func boatSchema(rule string) string {
	return `
type: object
x-kubernetes-validations:
- ` + rule + `
properties:
  spec:
    type: object
    properties:
      length: {type: integer}
      ratio: {type: number}
      name: {type: string}
      since: {type: string, format: date-time}
      wait: {type: string, format: duration}
      port: {x-kubernetes-int-or-string: true}
      tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
      numbers: {type: array, items: {type: integer}}
      labels: {type: object, additionalProperties: {type: string}}
      crew:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [name]
        items: {type: object, properties: {name: {type: string}, age: {type: integer}}}
      if: {type: string}
      a-b: {type: string}
`
}

func texts(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

// TestRules asks one rule about one object.
func TestRules(t *testing.T) {
	const unchanged = "unchanged"
	tests := []struct {
		name, rule, obj, old string
		want                 string // The error; "" for none.
	}{
		{"holds", `rule: "self.spec.length > 4"`, `spec: {length: 5}`, "", ""},
		{"broken", `rule: "self.spec.length > 4"`, `spec: {length: 4}`, "", `<nil>: Invalid value: failed rule: self.spec.length > 4`},
		{"message", `{rule: "self.spec.length > 4", message: too short}`, `spec: {length: 4}`, "", `<nil>: Invalid value: too short`},
		{"message expression", `{rule: "self.spec.length > 4", message: short, messageExpression: "'only ' + string(self.spec.length)"}`, `spec: {length: 4}`, "", `<nil>: Invalid value: only 4`},
		{"message expression that fails", `{rule: "self.spec.length > 4", message: short, messageExpression: "self.spec.name"}`, `spec: {length: 4}`, "", `<nil>: Invalid value: short`},
		{"reason and path", `{rule: "has(self.spec.name)", reason: FieldValueRequired, fieldPath: .spec.name, message: a name}`, `spec: {}`, "", `spec.name: Required value: a name`},
		{"forbidden", `{rule: "!has(self.spec.name)", reason: FieldValueForbidden, fieldPath: "['spec']['name']"}`, `spec: {name: x}`, "", `spec.name: Forbidden: failed rule: !has(self.spec.name)`},
		{"missing field", `rule: "self.spec.name == 'x'"`, `spec: {}`, "", `<nil>: Invalid value: "object": no such key: name evaluating rule: self.spec.name == 'x'`},
		{"optional field", `rule: "self.spec.?name.orValue('x') == 'x'"`, `spec: {}`, "", ""},
		{"kind and name", `rule: "self.kind == 'Boat' && self.metadata.name.startsWith('b')"`, `{kind: Boat, metadata: {name: b1}}`, "", ""},
		{"number", `rule: "self.spec.ratio * 2.0 == 6.0 && self.spec.ratio < 4"`, `spec: {ratio: 3}`, "", ""},
		{"time", `rule: "self.spec.since < timestamp('2026-01-01T00:00:00Z')"`, `spec: {since: "2025-01-01T00:00:00Z"}`, "", ""},
		{"duration", `rule: "self.spec.wait == duration('90s')"`, `spec: {wait: 1m30s}`, "", ""},
		{"int or string", `rule: "type(self.spec.port) == int ? self.spec.port < 100 : self.spec.port == 'http'"`, `spec: {port: http}`, "", ""},
		{"escaped", `rule: "self.spec.__if__ == self.spec.a__dash__b"`, `spec: {if: x, a-b: x}`, "", ""},
		{"map", `rule: "self.spec.labels.all(k, k.size() < 3 && self.spec.labels[k] != '')"`, `spec: {labels: {a: b}}`, "", ""},
		{"two variables", `rule: "self.spec.labels.all(k, v, k != v)"`, `spec: {labels: {a: b}}`, "", ""},
		{"set order", `rule: "self.spec.tags == oldSelf.spec.tags"`, `spec: {tags: [a, b]}`, `spec: {tags: [b, a]}`, ""},
		{"list order", `rule: "self.spec.numbers == oldSelf.spec.numbers"`, `spec: {numbers: [1, 2]}`, `spec: {numbers: [2, 1]}`, `<nil>: Invalid value: failed rule: self.spec.numbers == oldSelf.spec.numbers`},
		{"map list order", `rule: "self.spec.crew == oldSelf.spec.crew"`, `spec: {crew: [{name: a, age: 1}, {name: b}]}`, `spec: {crew: [{name: b}, {name: a, age: 1}]}`, ""},
		{"set sum", `rule: "(self.spec.tags + self.spec.tags).size() == 2"`, `spec: {tags: [a, b]}`, "", ""},
		{"transition", `{rule: "self.spec.length >= oldSelf.spec.length", message: it shrank}`, `spec: {length: 4}`, `spec: {length: 5}`, `<nil>: Invalid value: it shrank`},
		{"no transition at creation", `rule: "self.spec.length >= oldSelf.spec.length"`, `spec: {length: 4}`, "", ""},
		{"optional old", `{rule: "oldSelf.hasValue() || self.spec.length == 1", optionalOldSelf: true, message: begin with 1}`, `spec: {length: 4}`, "", `<nil>: Invalid value: begin with 1`},
		{"optional old that is there", `{rule: "oldSelf.optMap(o, o.spec.length).orValue(0) < self.spec.length", optionalOldSelf: true}`, `spec: {length: 4}`, `spec: {length: 3}`, ""},
		{"not asked again", `rule: "self.spec.length > 4"`, `spec: {length: 4}`, unchanged, ""},
		{"lists", `rule: "self.spec.numbers.sum() == 6 && self.spec.numbers.isSorted() && self.spec.numbers.max() == 3 && self.spec.numbers.min() == 1 && self.spec.numbers.indexOf(2) == 1"`, `spec: {numbers: [1, 2, 3]}`, "", ""},
		{"sets", `rule: "sets.contains(['a', 'b'], self.spec.tags)"`, `spec: {tags: [a]}`, "", ""},
		{"regex", `rule: "self.spec.name.find('[0-9]+') == '42' && self.spec.name.findAll('[a-z]') == ['a', 'b']"`, `spec: {name: a42b}`, "", ""},
		{"strings", `rule: "self.spec.name.split(',').size() == 2 && self.spec.name.lowerAscii() == 'a,b'"`, `spec: {name: "A,B"}`, "", ""},
		{"url", `rule: "isURL(self.spec.name) && url(self.spec.name).getHostname() == 'example.com' && url(self.spec.name).getQuery()['a'] == ['1']"`, `spec: {name: "https://example.com:80/x?a=1"}`, "", ""},
		{"quantity", `rule: "isQuantity(self.spec.name) && quantity(self.spec.name).add(quantity('1Gi')).compareTo(quantity('3Gi')) == 0 && quantity('2').isInteger()"`, `spec: {name: 2Gi}`, "", ""},
		{"address", `rule: "isIP(self.spec.name) && ip(self.spec.name).family() == 4 && cidr('10.0.0.0/8').containsIP(self.spec.name) && !isCIDR(self.spec.name)"`, `spec: {name: 10.1.2.3}`, "", ""},
		{"network", `rule: "cidr('10.0.0.0/8').containsCIDR(cidr(self.spec.name)) && cidr(self.spec.name).prefixLength() == 16 && string(cidr(self.spec.name).masked()) == '10.1.0.0/16'"`, `spec: {name: 10.1.2.3/16}`, "", ""},
		{"includes", `rule: "self.spec.numbers.includes(2) && !self.spec.numbers.includes(4) && self.spec.length.includes(5)"`, `spec: {numbers: [1, 2], length: 5}`, "", ""},
		{"format", `rule: "!format.dns1123Label().validate(self.spec.name).hasValue() && !format.named('dns1123Label').value().validate(self.spec.name).hasValue() && !format.named('x').hasValue()"`, `spec: {name: a-b}`, "", ""},
		{"format that is not met", `{rule: "!format.dns1123Label().validate(self.spec.name).hasValue()", message: bad, messageExpression: "format.dns1123Label().validate(self.spec.name).value().join(' ')"}`, `spec: {name: A_b}`, "",
			`<nil>: Invalid value: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		{"version", `rule: "isSemver(self.spec.name) && semver(self.spec.name).isGreaterThan(semver('1.2.9')) && semver(self.spec.name).minor() == 10 && semver('1.2.3').compareTo(semver('1.2.3')) == 0"`, `spec: {name: 1.10.0-rc.1}`, "", ""},
		{"version in other words", `rule: "!isSemver(self.spec.name) && isSemver(self.spec.name, true) && semver(self.spec.name, true) == semver('1.1.0') && !isSemver('1.0-rc', true) && semver('00.0.07', true).patch() == 7"`, `spec: {name: v01.1}`, "", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			rules, errs := Compile(nil, parseSchema(t, boatSchema(tc.rule)))
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			obj, old := parseObject(t, tc.obj), map[string]any(nil)
			if tc.old == unchanged {
				old = parseObject(t, tc.obj)
			} else {
				old = parseObject(t, tc.old)
			}
			var want []string
			if tc.want != "" {
				want = []string{tc.want}
			}
			if diff := cmp.Diff(want, texts(rules.Check(obj, old))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

// A rule that cannot be asked is found when its definition is written.
func TestRulesThatAreWrong(t *testing.T) {
	tests := []struct{ name, rule, want string }{
		{"syntax", `rule: "self."`, `Invalid value: {"Rule":"self.","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed`},
		{"unknown field", `rule: "self.spec.mast > 1"`, "undefined field 'mast'"},
		{"types", `rule: "self.spec.length > 'x'"`, "no matching overload"},
		{"no truth", `rule: "self.spec.length"`, "cel expression must evaluate to a bool"},
		{"no authorizer", `rule: "authorizer.group('').resource('pods').check('get').allowed()"`, "undeclared reference to 'authorizer'"},
		{"no text", `{rule: "true", messageExpression: "1"}`, "messageExpression must evaluate to a string"},
		{"path", `{rule: "true", fieldPath: .spec.mast}`, "must be a valid path"},
		{"reason", `{rule: "true", reason: Because}`, `Unsupported value: "Because"`},
		{"empty", `rule: " "`, "rule is not specified"},
		{"blank message", `{rule: "true", message: " "}`, "must be non-empty if specified"},
		{"optional old unused", `{rule: "true", optionalOldSelf: true}`, "may not be set if oldSelf is not used in rule"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, errs := Compile(field.NewPath("schema"), parseSchema(t, boatSchema(tc.rule)))
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), tc.want) {
				t.Errorf("errors are %v, want one with %q", errs, tc.want)
			}
		})
	}
}

// What is wrong with the use of oldSelf is told beside what is wrong with the rule.
func TestRuleThatIsWrongTwice(t *testing.T) {
	_, errs := Compile(field.NewPath("schema"), parseSchema(t, boatSchema(`{rule: "self.", optionalOldSelf: true}`)))
	if len(errs) != 2 || errs[1].Detail != "may not be set if oldSelf is not used in rule" {
		t.Errorf("errors are %v, want two", errs)
	}
}

// Rules of items look back where an item can be told by its keys, and not elsewhere.
func TestRulesOfItems(t *testing.T) {
	keyed := `
type: object
properties:
  crew:
    type: array
    x-kubernetes-list-type: map
    x-kubernetes-list-map-keys: [name]
    items:
      type: object
      x-kubernetes-validations: [{rule: "self.age >= oldSelf.age", message: nobody gets younger}]
      properties: {name: {type: string}, age: {type: integer}}
`
	rules, errs := Compile(nil, parseSchema(t, keyed))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	got := rules.Check(parseObject(t, `crew: [{name: b, age: 1}, {name: a, age: 3}]`), parseObject(t, `crew: [{name: a, age: 4}, {name: b, age: 1}]`))
	if diff := cmp.Diff([]string{"crew[1]: Invalid value: nobody gets younger"}, texts(got)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	_, errs = Compile(field.NewPath("s"), parseSchema(t, strings.Replace(keyed, "x-kubernetes-list-type: map\n    x-kubernetes-list-map-keys: [name]", "maxItems: 3", 1)))
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[crew]") {
		t.Errorf("errors are %v", errs)
	}
}

// What a rule costs is bounded: it ends, and says why.
func TestRuleThatCostsTooMuch(t *testing.T) {
	rules, errs := Compile(nil, parseSchema(t, boatSchema(`rule: "self.spec.numbers.all(a, self.spec.numbers.all(b, self.spec.numbers.all(c, a + b + c > 0)))"`)))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	numbers := make([]any, 1000)
	for i := range numbers {
		numbers[i] = int64(1)
	}
	got := rules.Check(map[string]any{"spec": map[string]any{"numbers": numbers}}, nil)
	if len(got) != 1 || !strings.Contains(got[0].Error(), "call cost exceeds limit") {
		t.Errorf("errors are %v, want one about the cost", got)
	}
}

// A schema without rules has none to ask.
func TestNoRules(t *testing.T) {
	rules, errs := Compile(nil, parseSchema(t, `{type: object, properties: {a: {type: string}}}`))
	if rules != nil || len(errs) > 0 {
		t.Errorf("rules %v, errors %v; want none", rules, errs)
	}
	if errs := rules.Check(map[string]any{"a": "b"}, nil); len(errs) > 0 {
		t.Error(errs)
	}
}

// Every format of Kubernetes takes what is of it and says why other texts are not.
func TestFormats(t *testing.T) {
	good := map[string]string{
		"dns1123Label": "a-b", "dns1123Subdomain": "a.b", "dns1035Label": "a1", "dns1123LabelPrefix": "a-", "dns1123SubdomainPrefix": "a.b-", "dns1035LabelPrefix": "a-",
		"qualifiedName": "example.com/Name", "labelValue": "A_b", "uri": "https://example.com/x", "uuid": "123e4567-e89b-12d3-a456-426614174000",
		"byte": "aGVsbG8=", "date": "2021-01-01", "datetime": "2021-01-01T00:00:00Z",
	}
	for name, f := range formats() {
		if found := f.check(good[name]); len(found) > 0 {
			t.Errorf("%s does not take %q: %v", name, good[name], found)
		}
		if found := f.check(" \x00%"); len(found) == 0 {
			t.Errorf("%s takes anything", name)
		}
	}
	if len(good) != len(formats()) {
		t.Errorf("there are %d formats, want %d", len(formats()), len(good))
	}
}
