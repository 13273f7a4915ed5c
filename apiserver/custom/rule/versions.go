package rule

import (
	"errors"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

var semverType = types.NewObjectType("kubernetes.Semver")

func semverValue(v semver.Version) ref.Val {
	return opaque[semver.Version]{v, semverType, semver.Version.EQ}
}

// parseVersion reads a semantic version. In normal form it has no "v", three numbers and no zeros in front of them.
func parseVersion(text string, normalize bool) (semver.Version, error) {
	if !normalize {
		return semver.Parse(text)
	}
	parts := strings.SplitN(strings.TrimPrefix(text, "v"), ".", 3)
	for i, part := range parts {
		if len(part) < 2 {
			continue
		}
		rest := strings.TrimLeft(part, "0")
		if rest == "" || rest[0] < '0' || rest[0] > '9' {
			rest = "0" + rest // It was the number itself, or there is none.
		}
		parts[i] = rest
	}
	if len(parts) < 3 && strings.ContainsAny(parts[len(parts)-1], "+-") {
		return semver.Version{}, errors.New("short version cannot contain PreRelease/Build meta data")
	}
	for len(parts) < 3 {
		parts = append(parts, "0")
	}
	return semver.Parse(strings.Join(parts, "."))
}

// versionFunctions are https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-semver-library
func versionFunctions() []cel.EnvOption {
	text, flagged := []*cel.Type{cel.StringType}, []*cel.Type{cel.StringType, cel.BoolType}
	one, two := []*cel.Type{semverType}, []*cel.Type{semverType, semverType}
	strict := func(s string) (semver.Version, error) { return parseVersion(s, false) }
	read := func(s string, normalize bool) ref.Val {
		return parsed(func(s string) (semver.Version, error) { return parseVersion(s, normalize) }, semverValue)(s)
	}
	number := func(name string, f func(semver.Version) uint64) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload("semver_"+name, one, cel.IntType, unary(func(v semver.Version) ref.Val { return types.Int(f(v)) })))
	}
	return []cel.EnvOption{
		cel.Function("semver", cel.Overload("string_to_semver", text, semverType, unary(parsed(strict, semverValue))),
			cel.Overload("string_bool_to_semver", flagged, semverType, binary(read))),
		cel.Function("isSemver", cel.Overload("is_semver_string", text, cel.BoolType, unary(parses(strict))),
			cel.Overload("is_semver_string_bool", flagged, cel.BoolType, binary(func(s string, normalize bool) ref.Val {
				_, err := parseVersion(s, normalize)
				return types.Bool(err == nil)
			}))),
		cel.Function("isGreaterThan", cel.MemberOverload("semver_is_greater_than", two, cel.BoolType, binary(func(a, b semver.Version) ref.Val { return types.Bool(a.GT(b)) }))),
		cel.Function("isLessThan", cel.MemberOverload("semver_is_less_than", two, cel.BoolType, binary(func(a, b semver.Version) ref.Val { return types.Bool(a.LT(b)) }))),
		cel.Function("compareTo", cel.MemberOverload("semver_compare_to", two, cel.IntType, binary(func(a, b semver.Version) ref.Val { return types.Int(a.Compare(b)) }))),
		number("major", func(v semver.Version) uint64 { return v.Major }),
		number("minor", func(v semver.Version) uint64 { return v.Minor }),
		number("patch", func(v semver.Version) uint64 { return v.Patch }),
	}
}
