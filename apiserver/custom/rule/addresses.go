package rule

import (
	"fmt"
	"net/netip"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// parseIP reads an address as Kubernetes' rules want them: without a zone, and IPv4 not in the form of IPv6.
func parseIP(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return addr, fmt.Errorf("IP Address %q parse error during conversion from string: %w", text, err)
	case addr.Zone() != "":
		return addr, fmt.Errorf("IP address %q with zone value is not allowed", text)
	case addr.Is4In6():
		return addr, fmt.Errorf("IPv4-mapped IPv6 address %q is not allowed", text)
	}
	return addr, nil
}

func parseCIDR(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return prefix, fmt.Errorf("network address parse error during conversion from string: %w", err)
	case prefix.Addr().Is4In6():
		return prefix, fmt.Errorf("IPv4-mapped IPv6 address %q is not allowed", text)
	}
	return prefix, nil
}

func addressFunctions() []cel.EnvOption {
	text := []*cel.Type{cel.StringType}
	is := func(name, id string, f func(netip.Addr) bool) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(id, []*cel.Type{ipType}, cel.BoolType, unary(func(a netip.Addr) ref.Val { return types.Bool(f(a)) })))
	}
	return []cel.EnvOption{
		cel.Function("ip",
			cel.Overload("string_to_ip", text, ipType, unary(parsed(parseIP, ipValue))),
			cel.MemberOverload("cidr_ip", []*cel.Type{cidrType}, ipType, unary(func(p netip.Prefix) ref.Val { return ipValue(p.Addr()) }))),
		cel.Function("isIP", cel.Overload("is_ip", text, cel.BoolType, unary(parses(parseIP)))),
		cel.Function("ip.isCanonical", cel.Overload("ip_is_canonical", text, cel.BoolType, unary(func(s string) ref.Val {
			addr, err := parseIP(s)
			if err != nil {
				return types.WrapErr(err)
			}
			return types.Bool(addr.String() == s)
		}))),
		cel.Function("family", cel.MemberOverload("ip_family", []*cel.Type{ipType}, cel.IntType, unary(func(a netip.Addr) ref.Val {
			if a.Is4() {
				return types.Int(4)
			}
			return types.Int(6)
		}))),
		is("isUnspecified", "ip_is_unspecified", netip.Addr.IsUnspecified),
		is("isLoopback", "ip_is_loopback", netip.Addr.IsLoopback),
		is("isLinkLocalMulticast", "ip_is_link_local_multicast", netip.Addr.IsLinkLocalMulticast),
		is("isLinkLocalUnicast", "ip_is_link_local_unicast", netip.Addr.IsLinkLocalUnicast),
		is("isGlobalUnicast", "ip_is_global_unicast", netip.Addr.IsGlobalUnicast),
		cel.Function("cidr", cel.Overload("string_to_cidr", text, cidrType, unary(parsed(parseCIDR, cidrValue)))),
		cel.Function("isCIDR", cel.Overload("is_cidr", text, cel.BoolType, unary(parses(parseCIDR)))),
		cel.Function("prefixLength", cel.MemberOverload("cidr_prefix_length", []*cel.Type{cidrType}, cel.IntType, unary(func(p netip.Prefix) ref.Val { return types.Int(p.Bits()) }))),
		cel.Function("masked", cel.MemberOverload("cidr_masked", []*cel.Type{cidrType}, cidrType, unary(func(p netip.Prefix) ref.Val { return cidrValue(p.Masked()) }))),
		cel.Function("containsIP",
			cel.MemberOverload("cidr_contains_ip_string", []*cel.Type{cidrType, cel.StringType}, cel.BoolType, binary(func(p netip.Prefix, s string) ref.Val {
				return parsed(parseIP, func(a netip.Addr) ref.Val { return types.Bool(p.Contains(a)) })(s)
			})),
			cel.MemberOverload("cidr_contains_ip_ip", []*cel.Type{cidrType, ipType}, cel.BoolType, binary(func(p netip.Prefix, a netip.Addr) ref.Val {
				return types.Bool(p.Contains(a))
			}))),
		cel.Function("containsCIDR",
			cel.MemberOverload("cidr_contains_cidr_string", []*cel.Type{cidrType, cel.StringType}, cel.BoolType, binary(func(p netip.Prefix, s string) ref.Val {
				return parsed(parseCIDR, func(inner netip.Prefix) ref.Val { return types.Bool(holds(p, inner)) })(s)
			})),
			cel.MemberOverload("cidr_contains_cidr", []*cel.Type{cidrType, cidrType}, cel.BoolType, binary(func(p, inner netip.Prefix) ref.Val {
				return types.Bool(holds(p, inner))
			}))),
		cel.Function("string",
			cel.Overload("ip_to_string", []*cel.Type{ipType}, cel.StringType, unary(func(a netip.Addr) ref.Val { return types.String(a.String()) })),
			cel.Overload("cidr_to_string", []*cel.Type{cidrType}, cel.StringType, unary(func(p netip.Prefix) ref.Val { return types.String(p.String()) }))),
	}
}

// holds tells whether all addresses of the inner range are in the outer.
func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
