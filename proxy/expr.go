package proxy

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The pieces that rules are made of, as the kernel's expressions.

// reg numbers the 4-byte registers, 0 to 15.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// join makes one list of expressions and lists of them.
func join(parts ...any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		switch part := part.(type) {
		case []expr.Any:
			all = append(all, part...)
		case expr.Any:
			all = append(all, part)
		}
	}
	return all
}

// isLocal asks the routing table whether the destination is the node itself.
func isLocal() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true}, equal(reg(0), native(unix.RTN_LOCAL)...)}
}

// The states of a packet's connection: NF_CT_STATE_BIT of each.
const (
	establishedConnection = 1 << 1
	relatedConnection     = 1 << 2
	newConnection         = 1 << 3
)

// connectionIs asks whether the packet's connection is in one of these states.
func connectionIs(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: native(states), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: native(0)},
	}
}

// port loads the destination port, at the same place in TCP, UDP and SCTP.
func port(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// sourcePort is at the same place in them, too.
func sourcePort(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}
}

func l4proto(to uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: to} }

func equal(register uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

// result is the register that a lookup puts its answer into, behind the longest key.
func result() uint32 { return reg(10) }

func lookup(in string) expr.Any {
	return &expr.Lookup{SourceRegister: reg(0), DestRegister: result(), IsDestRegSet: true, SetName: in}
}

func isIn(set string) expr.Any { return &expr.Lookup{SourceRegister: reg(0), SetName: set} }

func isNotIn(set string) expr.Any {
	return &expr.Lookup{SourceRegister: reg(0), SetName: set, Invert: true}
}

// vmap goes where the map in says for the number that was looked up. The number takes the way over the packet's mark, which pickChain
// sets right again. A register alone would do for the kernel, but nft's language has no words for that, and nft 1.0.6 crashes when
// it is to list such a rule.
func vmap(in string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: result()},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: result()},
		&expr.Lookup{SourceRegister: result(), DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: in},
	}
}

func gotoChain(name string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: name} }
