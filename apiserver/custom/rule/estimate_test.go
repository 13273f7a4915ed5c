package rule

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What rules could cost at worst is what Kubernetes says: these are the figures of its own library for the same rules.
func TestWorstCost(t *testing.T) {
	const fleet = `
type: object
properties:
  name: {type: string, maxLength: 20}
  any: {type: string}
  kind: {type: string, enum: [sail, rowing]}
  since: {type: string, format: date-time}
  crew: {type: array, maxItems: 10, items: {type: string, maxLength: 5}}
  ports: {type: array, items: {type: object, required: [port], properties: {port: {type: integer}, at: {type: string, maxLength: 7}}}}
  tags: {type: object, maxProperties: 8, additionalProperties: {type: string, maxLength: 30}}
  share: {x-kubernetes-int-or-string: true, maxLength: 4}`
	env, err := declare(parseSchema(t, fleet), true, false)
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]uint64{
		"self.name == self.any":                                       12,
		"self.kind.startsWith('s')":                                   3,
		"self.metadata.name.contains(self.name)":                      821,
		"self.any.matches('^[a-z]+$')":                                629148,
		"self.any.find('^[a-z]+') != ''":                              629148,
		"self.crew.all(c, c != 'nobody')":                             53,
		"self.crew.exists(a, self.crew.exists_one(b, a == b))":        683,
		"self.crew.isSorted()":                                        32,
		"self.crew.join(', ').size() < 100":                           26,
		"self.ports.all(p, p.port > 0)":                               1572861,
		"self.ports.map(p, p.at).indexOf('x') < 0":                    18446744073709551615,
		"self.tags.all(k, k.size() < 9 && self.tags[k] != '')":        83,
		"self.name.replace('a', 'bcd').lowerAscii() == 'x'":           43,
		"self.name.split(',', 3).size() == 3":                         20,
		"type(self.share) == int || self.share.endsWith('%')":         7,
		"url(self.any).getHost() == 'x' && isURL(self.any)":           314580,
		"ip(self.any) == ip('192.0.2.1') && ip.isCanonical(self.any)": 943725,
		"cidr('192.0.2.0/24').containsIP(self.any)":                   314581,
		"cidr('192.0.2.0/24').containsCIDR(self.name)":                19,
		"quantity(self.any).add(quantity('1')).isInteger()":           314578,
		"semver(self.name) == semver('1.0.0')":                        12,
		"!format.named('uuid').value().validate(self.any).hasValue()": 10066342,
		"self.since > timestamp('2026-01-01T00:00:00Z')":              4,
		"[1, 2, 3].sum() == 6 && ['a', 'b'].max() == 'b'":             3689348814741910555,
	} {
		checked, _, wrong := expression(env, rule, cel.BoolType, "no bool")
		if wrong != "" {
			t.Fatalf("%s: %s", rule, wrong)
		}
		got, err := atWorst(env, checked, shapeOf(parseSchema(t, fleet), true))
		if err != nil || got != want {
			t.Errorf("%s: costs %d, error %v; want %d", rule, got, err, want)
		}
	}
}

// A rule that could cost too much is refused, also when it is cheap but there may be very many values for it, and when it is the
// sum of the rules that is too much.
func TestRulesTooDear(t *testing.T) {
	const within = `{type: object, properties: {list: {type: array%s, items: {type: string, maxLength: 100, x-kubernetes-validations: [{rule: "%s"}]}}}}`
	for name, c := range map[string]struct {
		schema string
		want   []string
	}{
		"bounded":   {fmt.Sprintf(within, ", maxItems: 10", "self != 'a'"), nil},
		"unbounded": {fmt.Sprintf(within, "", "self.matches('^[a-z]*$')"), []string{"properties[list].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 8.7x"}},
		"of its own": {
			`{type: object, x-kubernetes-validations: [{rule: "self.list.all(a, self.list.all(b, a == b))"}], properties: {list: {type: array, items: {type: string}}}}`,
			[]string{
				"x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems",
				"x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
				"s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x",
			},
		},
		"message": {
			`{type: object, properties: {l: {type: array, x-kubernetes-validations: [{rule: "size(self) < 9", messageExpression: "self.all(a, self.all(b, a == b)) ? 'x' : 'y'"}], items: {type: integer}}}}`,
			[]string{
				"x-kubernetes-validations[0].messageExpression: Forbidden: estimated messageExpression cost exceeds budget",
				"contributed to estimated rule cost total",
				"s: Forbidden: x-kubernetes-validations estimated rule cost total",
			},
		},
	} {
		errs := Check(field.NewPath("s"), parseSchema(t, c.schema))
		if len(errs) != len(c.want) {
			t.Errorf("%s: errors %v, want %q", name, errs, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(errs[i].Error(), want) {
				t.Errorf("%s: error %v, want %q in it", name, errs[i], want)
			}
		}
	}
}
