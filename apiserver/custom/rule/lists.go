package rule

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

func listFunctions() []cel.EnvOption {
	item := cel.TypeParamType("T")
	list := []*cel.Type{cel.ListType(item)}
	place := func(name, id string, find func(list traits.Lister, item ref.Val) ref.Val) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(id, []*cel.Type{list[0], item}, cel.IntType, cel.BinaryBinding(func(v, item ref.Val) ref.Val {
			list, ok := v.(traits.Lister)
			if !ok {
				return types.MaybeNoSuchOverloadErr(v)
			}
			return find(list, item)
		})))
	}
	return []cel.EnvOption{
		cel.Function("isSorted", cel.MemberOverload("list_is_sorted", list, cel.BoolType, onList(isSorted))),
		cel.Function("sum", cel.MemberOverload("list_sum", list, item, onList(sum))),
		cel.Function("min", cel.MemberOverload("list_min", list, item, onList(extreme("min", types.IntNegOne)))),
		cel.Function("max", cel.MemberOverload("list_max", list, item, onList(extreme("max", types.IntOne)))),
		place("indexOf", "list_index_of", func(list traits.Lister, item ref.Val) ref.Val {
			for i := types.Int(0); i < list.Size().(types.Int); i++ {
				if list.Get(i).Equal(item) == types.True {
					return i
				}
			}
			return types.Int(-1)
		}),
		place("lastIndexOf", "list_last_index_of", func(list traits.Lister, item ref.Val) ref.Val {
			for i := list.Size().(types.Int) - 1; i >= 0; i-- {
				if list.Get(i).Equal(item) == types.True {
					return i
				}
			}
			return types.Int(-1)
		}),
		cel.Function("includes", cel.MemberOverload("list_includes_dyn_dyn", []*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(includes))),
	}
}

// includes tells whether a value is in a list; where there is no list, whether it is the value itself.
func includes(in, value ref.Val) ref.Val {
	list, ok := in.(traits.Lister)
	if !ok {
		return types.Bool(in.Equal(value) == types.True)
	}
	for i := types.Int(0); i < list.Size().(types.Int); i++ {
		if list.Get(i).Equal(value) == types.True {
			return types.True
		}
	}
	return types.False
}

func onList(f func(traits.Lister) ref.Val) cel.OverloadOpt {
	return cel.UnaryBinding(func(v ref.Val) ref.Val {
		list, ok := v.(traits.Lister)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return f(list)
	})
}

// compare is -1, 0 or 1, or an error for values that have no order.
func compare(a, b ref.Val) ref.Val {
	comparer, ok := a.(traits.Comparer)
	if !ok {
		return types.MaybeNoSuchOverloadErr(a)
	}
	return comparer.Compare(b)
}

func isSorted(list traits.Lister) ref.Val {
	for i := types.Int(1); i < list.Size().(types.Int); i++ {
		switch order := compare(list.Get(i-1), list.Get(i)); {
		case types.IsUnknownOrError(order):
			return order
		case order == types.IntOne:
			return types.False
		}
	}
	return types.True
}

// sum is 0 for an empty list, whatever it would be a list of.
func sum(list traits.Lister) ref.Val {
	if list.Size() == types.IntZero {
		return types.IntZero
	}
	total := list.Get(types.Int(0))
	for i := types.Int(1); i < list.Size().(types.Int); i++ {
		adder, ok := total.(traits.Adder)
		if !ok {
			return types.MaybeNoSuchOverloadErr(total)
		}
		if total = adder.Add(list.Get(i)); types.IsUnknownOrError(total) {
			return total
		}
	}
	return total
}

// extreme finds the item that compares so to all others.
func extreme(name string, wins types.Int) func(traits.Lister) ref.Val {
	return func(list traits.Lister) ref.Val {
		if list.Size() == types.IntZero {
			return types.NewErr("%s called on empty list", name)
		}
		best := list.Get(types.Int(0))
		for i := types.Int(1); i < list.Size().(types.Int); i++ {
			order := compare(list.Get(i), best)
			if types.IsUnknownOrError(order) {
				return order
			}
			if order == wins {
				best = list.Get(i)
			}
		}
		return best
	}
}
