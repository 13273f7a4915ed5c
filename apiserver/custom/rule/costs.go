package rule

import (
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// costs says what a call of one of Kubernetes' functions costs: what it has to read. CEL knows the costs of its own.
type costs struct{}

// ours are the functions that read all of their arguments.
var ours = map[string]bool{
	"isSorted": true, "sum": true, "min": true, "max": true, "indexOf": true, "lastIndexOf": true, "find": true, "findAll": true,
	"url": true, "isURL": true, "ip": true, "isIP": true, "ip.isCanonical": true, "cidr": true, "isCIDR": true, "containsIP": true,
	"containsCIDR": true, "quantity": true, "isQuantity": true, "matches": true, "includes": true, "semver": true, "isSemver": true,
}

// CallCost is nil for what CEL knows better.
func (costs) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if function == "validate" && len(args) == 2 {
		f, ok := args[0].Value().(namedFormat)
		if !ok {
			return nil
		}
		total := 1 + size(args[1])*(1+f.size/4)
		return &total
	}
	if !ours[function] {
		return nil
	}
	total := uint64(1)
	for _, arg := range args {
		total += size(arg)
	}
	if function == "find" || function == "findAll" || function == "matches" {
		total = 1 + size(args[0])*(1+size(args[1])/4) // A longer pattern takes more steps for each byte.
	}
	return &total
}

// size is what it takes to read a value once: a unit for an item of a list, or for ten bytes of a text.
func size(v ref.Val) uint64 {
	s, ok := v.(traits.Sizer)
	if !ok {
		return 1
	}
	n, ok := s.Size().(types.Int)
	if !ok {
		return 1
	}
	if v.Type() == types.StringType {
		return uint64(n)/10 + 1
	}
	return uint64(n)
}
