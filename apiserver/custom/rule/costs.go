package rule

import (
	"math"

	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// What a call of one of Kubernetes' functions costs follows from the sizes of what it is called with. Where these are known,
// as when a rule runs, that is what the call does cost; where bounds of them are, it is what it costs at least and at most.
// The formulas are those of k8s.io/apiserver/pkg/cel/library: which rules a definition may have depends on them. CEL knows
// the costs of its own functions.

// operand is what a function is called with; a method's target comes first.
type operand struct {
	size   checker.SizeEstimate
	item   *checker.SizeEstimate // How large one item is, in a list of texts.
	isList bool
	number *int64 // The value, where it is written in the rule.
}

// The sizes of an address's bytes.
var addressSize = checker.SizeEstimate{Min: 4, Max: 16}

// callCost is what a call costs, and how large what it returns is; ok is false for functions that CEL knows.
func callCost(function, overload string, with []operand) (cost checker.CostEstimate, result *checker.SizeEstimate, ok bool) {
	if len(with) == 0 {
		return cost, nil, false
	}
	first := with[0].size
	switch function {
	case "isSorted", "sum", "max", "min", "indexOf", "lastIndexOf", "includes":
		return costOfItems(with[0]), nil, true
	case "url", "cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver":
		return reading(first, 1), nil, true
	case "lowerAscii", "upperAscii", "substring", "trim":
		return reading(first, 1), &first, true
	case "ip":
		if overload == "cidr_ip" {
			return once, nil, true
		}
		return reading(first, 1), nil, true
	case "ip.isCanonical":
		return reading(first, 2), nil, true
	case "containsIP", "containsCIDR":
		return costOfContaining(function, overload, with), nil, true
	case "replace":
		if len(with) < 3 {
			return cost, nil, false
		}
		size := sizeOfReplaced(first, with[1].size, with[2].size)
		return reading(first, 2), &size, true
	case "split":
		parts := checker.SizeEstimate{Max: first.Max}
		if len(with) > 2 && with[2].number != nil {
			parts.Max = uint64(*with[2].number)
		}
		return reading(first, 2), &parts, true
	case "join":
		size := sizeOfJoined(with)
		return reading(size, 1), &size, true
	case "find", "findAll":
		if len(with) < 2 {
			return cost, nil, false
		}
		text := reading(first.Add(checker.SizeEstimate{Min: 1, Max: 1}), 1)
		pattern := with[1].size.MultiplyByCostFactor(common.RegexStringLengthCostFactor)
		return text.Multiply(pattern), &checker.SizeEstimate{Max: first.Max}, true
	case "masked", "prefixLength", "family", "isUnspecified", "isLoopback", "isLinkLocalMulticast", "isLinkLocalUnicast", "isGlobalUnicast",
		"sign", "asInteger", "isInteger", "asApproximateFloat", "isGreaterThan", "isLessThan", "compareTo", "add", "sub", "major", "minor", "patch",
		"getScheme", "getHostname", "getHost", "getPort", "getEscapedPath", "getQuery", "format.named":
		return once, nil, true
	}
	return cost, nil, false
}

var once = checker.CostEstimate{Min: 1, Max: 1}

// reading is what it costs to read a text so many times.
func reading(size checker.SizeEstimate, times float64) checker.CostEstimate {
	return size.MultiplyByCostFactor(times * common.StringTraversalCostFactor)
}

// costOfItems is what it costs to look at each item of a list, or at a text.
func costOfItems(of operand) checker.CostEstimate {
	if !of.isList {
		return reading(of.size, 1)
	}
	each := once
	if of.item != nil {
		each = each.Add(reading(*of.item, 1))
	}
	return of.size.MultiplyByCost(each)
}

func costOfContaining(function, overload string, with []operand) checker.CostEstimate {
	cost := reading(addressSize.Add(addressSize), 1)
	if function == "containsCIDR" { // The range is masked first.
		cost = cost.Add(reading(addressSize, 1)).Add(once)
	}
	if len(with) > 1 && (overload == "cidr_contains_ip_string" || overload == "cidr_contains_cidr_string") {
		cost = cost.Add(reading(with[1].size, 1))
	}
	return cost
}

// sizeOfReplaced is how large a text is in which one part takes the place of another, wherever that is.
func sizeOfReplaced(text, part, by checker.SizeEstimate) checker.SizeEstimate {
	most, kept := replacements(text.Max, part.Min, by.Max <= part.Min)
	least, keptOfLeast := replacements(text.Min, part.Max, part.Max <= by.Min)
	return checker.SizeEstimate{Min: least, Max: most}.Multiply(by).Add(checker.SizeEstimate{Min: keptOfLeast, Max: kept})
}

// replacements are how many there are in a text of that size, and what of the text stays. same tells that they do not
// move the bound that is looked for.
func replacements(text, part uint64, same bool) (count, kept uint64) {
	switch {
	case part == 0: // One before each character, and one at the end.
		if text == math.MaxUint64 {
			return text, text
		}
		return text + 1, text
	case same:
		return 0, text
	}
	return uint64(math.Ceil(float64(text) / float64(part))), 0
}

// sizeOfJoined is how large the text is that a list of texts makes.
func sizeOfJoined(with []operand) (size checker.SizeEstimate) {
	list := with[0]
	if list.item != nil {
		size = list.size.Multiply(*list.item)
	}
	if len(with) > 1 {
		between := checker.SizeEstimate{Min: max(list.size.Min, 1) - 1, Max: max(list.size.Max, 1) - 1}
		size = size.Add(with[1].size.Multiply(between))
	}
	return size
}

// costs says what calls do cost.
type costs struct{}

// CallCost is nil for what CEL knows better.
func (costs) CallCost(function, overload string, args []ref.Val, _ ref.Val) *uint64 {
	switch function {
	case "validate":
		if len(args) == 2 {
			return priceOfFormat(args[0], args[1])
		}
	case "isURL": // Kubernetes takes it for free, but it reads its argument.
		function = "url"
	}
	with := make([]operand, 0, len(args))
	for _, arg := range args {
		with = append(with, operandOf(arg))
	}
	cost, _, ok := callCost(function, overload, with)
	if !ok {
		return nil
	}
	return &cost.Max
}

func priceOfFormat(format, text ref.Val) *uint64 {
	f, ok := format.Value().(namedFormat)
	if !ok {
		return nil
	}
	total := 1 + sizeOf(text)*(1+f.size/4)
	return &total
}

func operandOf(v ref.Val) operand {
	size := exactly(sizeOf(v))
	list, ok := v.(traits.Lister)
	if !ok {
		return operand{size: size}
	}
	o := operand{size: size, isList: true}
	for i := range types.Int(size.Max) {
		item := list.Get(i)
		if item.Type() != types.StringType && item.Type() != types.BytesType {
			break
		}
		if o.item == nil {
			o.item = &checker.SizeEstimate{}
		}
		o.item.Max = max(o.item.Max, sizeOf(item))
	}
	return o
}

func exactly(n uint64) checker.SizeEstimate { return checker.SizeEstimate{Min: n, Max: n} }

// sizeOf is how many characters a text has, or items a list; 1 for what has no size.
func sizeOf(v ref.Val) uint64 {
	if s, ok := v.(traits.Sizer); ok {
		if n, ok := s.Size().(types.Int); ok {
			return uint64(n)
		}
	}
	return 1
}
