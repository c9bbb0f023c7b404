package lb

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers are counted in 32-bit words from here.
const reg0 = unix.NFT_REG32_00

// masqMark tells packets whose source the postrouting chain rewrites.
const masqMark = 0x4000

// family holds what differs between IPv4 and IPv6.
type family struct {
	table nftables.TableFamily
	ip    nftables.SetDatatype
	nat   uint32
	words uint32 // of an address
	srcAt uint32 // offset of the source address in the header
	dstAt uint32
	// unreachable is the ICMP code of "port unreachable".
	unreachable uint8
	loopback    netip.Prefix
}

var (
	ipv4 = family{nftables.TableFamilyIPv4, nftables.TypeIPAddr, unix.NFPROTO_IPV4, 1, 12, 16, 3, netip.MustParsePrefix("127.0.0.0/8")}
	ipv6 = family{nftables.TableFamilyIPv6, nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 4, 8, 24, 4, netip.MustParsePrefix("::1/128")}
)

func (f *family) load(at, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: 4 * f.words}
}

func protoTo(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} }

func portTo(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// isProto matches the transport protocol, which dnat to a port depends on.
func isProto(p uint8) []expr.Any {
	return []expr.Any{protoTo(reg0), &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{p}}}
}

// inPrefix matches (or, inverted, does not match) the address at an offset.
func (f *family) inPrefix(at uint32, p netip.Prefix, invert bool) []expr.Any {
	op := expr.CmpOpEq
	if invert {
		op = expr.CmpOpNeq
	}
	mask := make([]byte, 4*f.words)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		f.load(at, reg0),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4 * f.words, Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: reg0, Data: p.Masked().Addr().AsSlice()},
	}
}

// toLocal matches packets to an address of this machine.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// fromLocal matches packets from an address of this machine.
func fromLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagSADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// newConnection matches the first packet of a connection.
func newConnection() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

// redirected matches the packets of connections whose destination was
// rewritten.
func redirected() []expr.Any {
	const destination = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(destination), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

// mark marks the packet for masquerading.
func mark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqMark)), Xor: binaryutil.NativeEndian.PutUint32(masqMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg0},
	}
}

// masquerade rewrites the source of marked packets and takes the mark off.
func masquerade() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(masqMark), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqMark)), Xor: make([]byte, 4)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg0},
		&expr.Masq{FullyRandom: true},
	}
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func (f *family) refuse() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.unreachable}}
}

// lookup sends the packet where a verdict map says.
func lookup(set *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}
}

// dnat rewrites the destination to the address and port from reg on.
func (f *family) dnat(reg uint32) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nat, RegAddrMin: reg, RegProtoMin: reg + f.words}
}

// Keys and values of the maps. Every part fills whole 32-bit words.

func (f *family) frontendKey(addr netip.Addr, proto uint8, port uint16) []byte {
	out := append([]byte(nil), addr.AsSlice()...)
	return append(out, portKey(proto, port)...)
}

func portKey(proto uint8, port uint16) []byte {
	out := []byte{proto, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(out[4:], port)
	return out
}

func backendValue(b netip.AddrPort) []byte {
	out := append([]byte(nil), b.Addr().AsSlice()...)
	return append(out, byte(b.Port()>>8), byte(b.Port()), 0, 0)
}

func concat(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
