package rule

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Kubernetes' limits of what rules could cost at worst, in CEL's units of cost.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#resource-use-by-validation-functions
const (
	perRuleAtWorst   = 10000000
	perSchemaAtWorst = 100000000
)

// atWorst is what an expression could cost, called once with the largest value of that shape.
func atWorst(env *cel.Env, checked *cel.Ast, self *shape) (uint64, error) {
	cost, err := env.EstimateCost(checked, estimator{self})
	if err != nil {
		return 0, err
	}
	return cost.Max, nil
}

// estimator tells CEL what it cannot know: how large values may be, and what Kubernetes' functions cost.
type estimator struct{ self *shape }

// EstimateSize is nil for what does not come from self or oldSelf.
func (e estimator) EstimateSize(of checker.AstNode) *checker.SizeEstimate {
	if len(of.Path()) == 0 {
		return nil
	}
	found := e.self.at(of.Path()[1:])
	if found == nil {
		return nil
	}
	return &checker.SizeEstimate{Max: uint64(found.most)}
}

// EstimateCallCost is nil for what CEL knows better.
func (e estimator) EstimateCallCost(function, overload string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	switch function {
	case "validate": // At worst the longest format.
		if len(args) == 0 {
			return nil
		}
		const pattern = 128 * common.RegexStringLengthCostFactor
		return &checker.CallEstimate{CostEstimate: reading(e.size(args[0]), 1).MultiplyByCostFactor(pattern)}
	case "_==_":
		if len(args) == 2 && ours(args[0].Type()) && ours(args[1].Type()) {
			return &checker.CallEstimate{CostEstimate: once}
		}
		return nil
	}
	if target != nil {
		args = append([]checker.AstNode{*target}, args...)
	}
	with := make([]operand, 0, len(args))
	for _, arg := range args {
		with = append(with, e.operandOf(arg))
	}
	cost, result, ok := callCost(function, overload, with)
	if !ok {
		return nil
	}
	return &checker.CallEstimate{CostEstimate: cost, ResultSize: result}
}

// ours tells whether a type is one of Kubernetes' functions', whose values are small.
func ours(t *types.Type) bool {
	switch t.TypeName() {
	case urlType.TypeName(), ipType.TypeName(), cidrType.TypeName(), quantityType.TypeName(), semverType.TypeName(), formatType.TypeName():
		return true
	}
	return false
}

func (e estimator) operandOf(node checker.AstNode) operand {
	o := operand{size: e.size(node), isList: node.Type().Kind() == types.ListKind}
	if expr := node.Expr(); expr != nil && expr.Kind() == ast.LiteralKind {
		if n, ok := expr.AsLiteral().Value().(int64); ok {
			o.number = &n
		}
	}
	if o.isList {
		item := node.Type().Parameters()[0]
		if item.Kind() == types.StringKind || item.Kind() == types.BytesKind {
			size := e.size(itemNode{node, item})
			o.item = &size
		}
	}
	return o
}

func (e estimator) size(of checker.AstNode) checker.SizeEstimate {
	if size := of.ComputedSize(); size != nil {
		return *size
	}
	if size := e.EstimateSize(of); size != nil {
		return *size
	}
	return checker.SizeEstimate{Max: math.MaxUint64}
}

// itemNode stands for any item of a list.
type itemNode struct {
	list checker.AstNode
	kind *types.Type
}

func (n itemNode) Path() []string {
	if n.list.Path() == nil {
		return nil
	}
	return append(slices.Clip(n.list.Path()), "@items")
}
func (n itemNode) Type() *types.Type                   { return n.kind }
func (n itemNode) Expr() ast.Expr                      { return nil }
func (n itemNode) ComputedSize() *checker.SizeEstimate { return nil }

// bill is what the rules of a schema could cost together.
type bill struct {
	total   uint64
	dearest []entry
}

type entry struct {
	at   *field.Path
	cost uint64
}

// add counts what an expression could cost; it is an error if that is too much for one.
func (b *bill) add(at *field.Path, what string, cost uint64) *field.Error {
	b.total = plus(b.total, cost)
	if cost >= perSchemaAtWorst/100 {
		b.dearest = append(b.dearest, entry{at, cost})
	}
	if cost > perRuleAtWorst {
		return field.Forbidden(at, tooDear(what, cost, perRuleAtWorst))
	}
	return nil
}

// errors are those of the sum: one at each of the dearest expressions, and one at the schema.
func (b *bill) errors(path *field.Path) (errs field.ErrorList) {
	if b.total <= perSchemaAtWorst {
		return nil
	}
	slices.SortStableFunc(b.dearest, func(a, c entry) int { return cmp.Compare(c.cost, a.cost) })
	for _, e := range b.dearest[:min(len(b.dearest), 4)] {
		errs = append(errs, field.Forbidden(e.at, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"))
	}
	return append(errs, field.Forbidden(path, tooDear("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", b.total, perSchemaAtWorst)))
}

// tooDear is said in Kubernetes' words.
func tooDear(what string, cost, limit uint64) string {
	factor := "more than 100x"
	if times := float64(cost) / float64(limit); times < 1.5 {
		factor = fmt.Sprintf("%fx", times)
	} else if times <= 100 {
		factor = fmt.Sprintf("%.1fx", times)
	}
	return fmt.Sprintf("%s exceeds budget by factor of %s (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)", what, factor)
}

func plus(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

func times(a, b uint64) uint64 {
	if a != 0 && b > math.MaxUint64/a {
		return math.MaxUint64
	}
	return a * b
}
