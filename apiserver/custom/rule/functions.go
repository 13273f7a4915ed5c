package rule

import (
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/api/resource"
)

// functions are those that Kubernetes adds to CEL. https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library
// and the libraries after it.
type functions struct{}

// LibraryName makes functions a library.
func (functions) LibraryName() string { return "skiff.kubernetes" }

// ProgramOptions makes functions a library.
func (functions) ProgramOptions() []cel.ProgramOption { return nil }

// CompileOptions are the declarations of the functions, each with what it does.
func (functions) CompileOptions() []cel.EnvOption {
	var all []cel.EnvOption
	for _, library := range [][]cel.EnvOption{listFunctions(), textFunctions(), urlFunctions(), addressFunctions(), quantityFunctions(), formatFunctions(), versionFunctions()} {
		all = append(all, library...)
	}
	return all
}

// The types that the functions make.
var (
	urlType      = types.NewOpaqueType("kubernetes.URL")
	ipType       = types.NewOpaqueType("net.IP")
	cidrType     = types.NewOpaqueType("net.CIDR")
	quantityType = types.NewOpaqueType("kubernetes.Quantity")
)

// opaque is a value of one of those types.
type opaque[T any] struct {
	value T
	kind  *types.Type
	equal func(a, b T) bool
}

// ConvertToNative is for values that leave CEL, which these do not.
func (o opaque[T]) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is no %s", o.kind.TypeName(), to)
}

// ConvertToType converts to the value's own type alone.
func (o opaque[T]) ConvertToType(to ref.Type) ref.Val {
	switch to {
	case o.kind:
		return o
	case types.TypeType:
		return o.kind
	}
	return types.NewErr("type conversion error from '%s' to '%s'", o.kind.TypeName(), to.TypeName())
}

// Equal compares with a value of the same type.
func (o opaque[T]) Equal(other ref.Val) ref.Val {
	b, ok := other.(opaque[T])
	return types.Bool(ok && o.equal(o.value, b.value))
}

// Type is the value's type.
func (o opaque[T]) Type() ref.Type { return o.kind }

// Value is what Go knows.
func (o opaque[T]) Value() any { return o.value }

func same[T comparable](a, b T) bool { return a == b }

func ipValue(a netip.Addr) ref.Val     { return opaque[netip.Addr]{a, ipType, same[netip.Addr]} }
func cidrValue(p netip.Prefix) ref.Val { return opaque[netip.Prefix]{p, cidrType, same[netip.Prefix]} }
func urlValue(u *url.URL) ref.Val {
	return opaque[*url.URL]{u, urlType, func(a, b *url.URL) bool { return a.String() == b.String() }}
}
func quantityValue(q resource.Quantity) ref.Val {
	return opaque[resource.Quantity]{q, quantityType, func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }}
}

// unary and binary bind Go functions, and refuse other arguments than theirs.
func unary[A any](f func(A) ref.Val) cel.OverloadOpt {
	return cel.UnaryBinding(func(v ref.Val) ref.Val {
		a, ok := v.Value().(A)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return f(a)
	})
}

func binary[A, B any](f func(A, B) ref.Val) cel.OverloadOpt {
	return cel.BinaryBinding(func(v, w ref.Val) ref.Val {
		a, ok := v.Value().(A)
		b, okToo := w.Value().(B)
		if !ok || !okToo {
			return types.MaybeNoSuchOverloadErr(v)
		}
		return f(a, b)
	})
}

// parsed is what a text means, or the error.
func parsed[T any](parse func(string) (T, error), value func(T) ref.Val) func(string) ref.Val {
	return func(text string) ref.Val {
		v, err := parse(text)
		if err != nil {
			return types.WrapErr(err)
		}
		return value(v)
	}
}

// parses tells whether a text means something.
func parses[T any](parse func(string) (T, error)) func(string) ref.Val {
	return func(text string) ref.Val {
		_, err := parse(text)
		return types.Bool(err == nil)
	}
}

func textFunctions() []cel.EnvOption {
	text, texts := cel.StringType, cel.ListType(cel.StringType)
	return []cel.EnvOption{
		cel.Function("find", cel.MemberOverload("string_find_string", []*cel.Type{text, text}, text, binary(func(in, pattern string) ref.Val {
			re, err := regexp.Compile(pattern)
			if err != nil {
				return types.NewErr("Illegal regex: %v", err)
			}
			return types.String(re.FindString(in))
		}))),
		cel.Function("findAll",
			cel.MemberOverload("string_find_all_string", []*cel.Type{text, text}, texts, binary(func(in, pattern string) ref.Val {
				return findAll(in, pattern, -1)
			})),
			cel.MemberOverload("string_find_all_string_int", []*cel.Type{text, text, cel.IntType}, texts, cel.FunctionBinding(func(args ...ref.Val) ref.Val {
				in, ok := args[0].Value().(string)
				pattern, okToo := args[1].Value().(string)
				n, okThree := args[2].Value().(int64)
				if !ok || !okToo || !okThree {
					return types.MaybeNoSuchOverloadErr(args[0])
				}
				return findAll(in, pattern, int(n))
			}))),
	}
}

func findAll(in, pattern string, n int) ref.Val {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return types.NewErr("Illegal regex: %v", err)
	}
	return types.NewStringList(types.DefaultTypeAdapter, re.FindAllString(in, n))
}

func urlFunctions() []cel.EnvOption {
	get := func(name, id string, f func(*url.URL) string) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(id, []*cel.Type{urlType}, cel.StringType, unary(func(u *url.URL) ref.Val { return types.String(f(u)) })))
	}
	parse := func(text string) (*url.URL, error) {
		u, err := url.ParseRequestURI(text) // Wants it to be absolute, or a path.
		if err != nil {
			return nil, fmt.Errorf("URL parse error during conversion from string: %w", err)
		}
		return u, nil
	}
	return []cel.EnvOption{
		cel.Function("url", cel.Overload("string_to_url", []*cel.Type{cel.StringType}, urlType, unary(parsed(parse, urlValue)))),
		cel.Function("isURL", cel.Overload("is_url_string", []*cel.Type{cel.StringType}, cel.BoolType, unary(parses(parse)))),
		get("getScheme", "url_get_scheme", func(u *url.URL) string { return u.Scheme }),
		get("getHost", "url_get_host", func(u *url.URL) string { return u.Host }),
		get("getHostname", "url_get_hostname", (*url.URL).Hostname),
		get("getPort", "url_get_port", (*url.URL).Port),
		get("getEscapedPath", "url_get_escaped_path", (*url.URL).EscapedPath),
		cel.Function("getQuery", cel.MemberOverload("url_get_query", []*cel.Type{urlType}, cel.MapType(cel.StringType, cel.ListType(cel.StringType)),
			unary(func(u *url.URL) ref.Val {
				return types.DefaultTypeAdapter.NativeToValue(map[string][]string(u.Query()))
			}))),
	}
}

func quantityFunctions() []cel.EnvOption {
	type quantity = resource.Quantity
	one, two := []*cel.Type{quantityType}, []*cel.Type{quantityType, quantityType}
	withInt := []*cel.Type{quantityType, cel.IntType}
	member := func(name, id string, args []*cel.Type, result *cel.Type, f cel.OverloadOpt) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(id, args, result, f))
	}
	sum := func(a, b quantity) ref.Val { a.Add(b); return quantityValue(a) }
	difference := func(a, b quantity) ref.Val { a.Sub(b); return quantityValue(a) }
	number := func(n int64) quantity { return *resource.NewQuantity(n, resource.DecimalExponent) }
	sign := unary(func(q quantity) ref.Val { return types.Int(q.Sign()) })
	return []cel.EnvOption{
		cel.Function("quantity", cel.Overload("string_to_quantity", []*cel.Type{cel.StringType}, quantityType, unary(parsed(resource.ParseQuantity, quantityValue)))),
		cel.Function("isQuantity", cel.Overload("is_quantity_string", []*cel.Type{cel.StringType}, cel.BoolType, unary(parses(resource.ParseQuantity)))),
		cel.Function("sign", cel.Overload("quantity_sign", one, cel.IntType, sign), cel.MemberOverload("quantity_sign_member", one, cel.IntType, sign)),
		member("isGreaterThan", "quantity_is_greater_than", two, cel.BoolType, binary(func(a, b quantity) ref.Val { return types.Bool(a.Cmp(b) > 0) })),
		member("isLessThan", "quantity_is_less_than", two, cel.BoolType, binary(func(a, b quantity) ref.Val { return types.Bool(a.Cmp(b) < 0) })),
		member("compareTo", "quantity_compare_to", two, cel.IntType, binary(func(a, b quantity) ref.Val { return types.Int(a.Cmp(b)) })),
		member("asApproximateFloat", "quantity_get_float", one, cel.DoubleType, unary(func(q quantity) ref.Val { return types.Double(q.AsApproximateFloat64()) })),
		member("asInteger", "quantity_get_int", one, cel.IntType, unary(func(q quantity) ref.Val {
			n, ok := q.AsInt64()
			if !ok {
				return types.NewErr("cannot convert value to integer")
			}
			return types.Int(n)
		})),
		member("isInteger", "quantity_is_integer", one, cel.BoolType, unary(func(q quantity) ref.Val { _, ok := q.AsInt64(); return types.Bool(ok) })),
		cel.Function("add", cel.MemberOverload("quantity_add", two, quantityType, binary(sum)),
			cel.MemberOverload("quantity_add_int", withInt, quantityType, binary(func(q quantity, n int64) ref.Val { return sum(q, number(n)) }))),
		cel.Function("sub", cel.MemberOverload("quantity_sub", two, quantityType, binary(difference)),
			cel.MemberOverload("quantity_sub_int", withInt, quantityType, binary(func(q quantity, n int64) ref.Val { return difference(q, number(n)) }))),
	}
}
