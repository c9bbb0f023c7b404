package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table of a network, in nft's words:
//
//	table inet cox-cni-NAME {
//	  chain raw         { type filter hook prerouting priority raw
//	                      iifname "cox*" ip daddr 127.0.0.0/8 drop }
//	  chain postrouting { type nat hook postrouting priority srcnat
//	                      ip saddr 127.0.0.0/8 ct status dnat masquerade
//	                      oifname "vx-*" ip saddr CLUSTER return
//	                      oifname "vx-*" masquerade
//	                      ip daddr CLUSTER return
//	                      ip daddr 224.0.0.0/4 return
//	                      ip saddr PODS masquerade }
//	  chain hairpin     { type nat hook postrouting priority srcnat - 1
//	                      (per pod with host ports:
//	                      ip saddr POD ip daddr POD masquerade) }
//	  chain prerouting  { type nat hook prerouting priority dstnat
//	                      fib daddr type local jump hostports }
//	  chain output      { type nat hook output priority dstnat
//	                      fib daddr type local jump hostports }
//	  chain hostports   { (per host port:
//	                      ip daddr HOST tcp dport N dnat to POD:M) }
//	}
//
// The first rule keeps pods out of the host's loopback, which a host port on
// it would otherwise open.
type table struct {
	conn                                                     *nftables.Conn
	t                                                        *nftables.Table
	raw, postrouting, hairpin, prerouting, output, hostports *nftables.Chain
}

func openTable(c *Conf) (*table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	t := &table{conn: conn, t: &nftables.Table{Name: c.table(), Family: nftables.TableFamilyINet}}
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: t.t, Type: typ, Hooknum: hook, Priority: &prio}
	}
	t.raw = chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	t.postrouting = chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	t.hairpin = chain("hairpin", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-1)
	t.prerouting = chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	t.output = chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	t.hostports = &nftables.Chain{Name: "hostports", Table: t.t}
	return t, nil
}

func (t *table) rule(c *nftables.Chain, comment string, parts ...[]expr.Any) {
	r := &nftables.Rule{Table: t.t, Chain: c, UserData: []byte(comment)}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	t.conn.AddRule(r)
}

// setupTable writes the fixed chains anew, in one transaction, and leaves the
// host ports as they are.
func setupTable(c *Conf) error {
	t, err := openTable(c)
	if err != nil {
		return err
	}
	t.conn.AddTable(t.t)
	for _, ch := range []*nftables.Chain{t.hostports, t.raw, t.postrouting, t.hairpin, t.prerouting, t.output} {
		t.conn.AddChain(ch)
	}
	for _, ch := range []*nftables.Chain{t.raw, t.postrouting, t.prerouting, t.output} {
		t.conn.FlushChain(ch)
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	t.rule(t.raw, "", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(linkPrefix)},
	}, within(loopback, destination), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	const statusDNAT = 1 << 5 // IPS_DST_NAT
	t.rule(t.postrouting, "", within(loopback, source), []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Masq{},
	})
	// What is none of the pod network's would get its answer outside the
	// overlay, where a strict router drops it.
	onOverlay := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(c.overlayName()), 0)},
	}
	for _, p := range c.ClusterCIDRs {
		t.rule(t.postrouting, "", onOverlay, within(p, source), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	}
	t.rule(t.postrouting, "", onOverlay, []expr.Any{&expr.Masq{}})
	if !c.NoMasquerade {
		keep := append([]netip.Prefix(nil), c.ClusterCIDRs...)
		keep = append(append(keep, c.PodCIDRs...), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"))
		for _, p := range keep {
			t.rule(t.postrouting, "", within(p, destination), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
		}
		for _, p := range c.PodCIDRs {
			t.rule(t.postrouting, "", within(p, source), []expr.Any{&expr.Masq{}})
		}
	}
	for _, ch := range []*nftables.Chain{t.prerouting, t.output} {
		t.rule(ch, "", []expr.Any{
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: t.hostports.Name},
		})
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", t.t.Name, err)
	}
	return nil
}

const (
	source = iota
	destination
)

// within matches an address of the packet against a prefix, and with it the
// packet's IP family.
func within(p netip.Prefix, end int) []expr.Any {
	size := uint32(p.Addr().BitLen() / 8)
	proto, offset := byte(unix.NFPROTO_IPV4), uint32(12)
	if size == 16 {
		proto, offset = unix.NFPROTO_IPV6, 8
	}
	if end == destination {
		offset += size
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if p.Bits() < p.Addr().BitLen() {
		mask := make([]byte, size)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

var protocols = map[string]byte{"": unix.IPPROTO_TCP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// addHostPorts leads host ports to the pod. Rules carry their owner, by which
// they are found again.
func addHostPorts(c *Conf, hostLink string, who owner, addrs []netip.Addr, ports []portMapping) error {
	t, err := openTable(c)
	if err != nil {
		return err
	}
	any := false
	for _, a := range addrs {
		mapped := false
		for _, p := range ports {
			if p.HostPort == 0 {
				continue
			}
			rule, ok, err := hostPort(a, p)
			if err != nil {
				return err
			}
			if ok {
				t.rule(t.hostports, ruleOwner(who), rule)
				mapped, any = true, true
			}
		}
		if mapped {
			self := netip.PrefixFrom(a, a.BitLen())
			t.rule(t.hairpin, ruleOwner(who), within(self, source), within(self, destination), []expr.Any{&expr.Masq{}})
		}
	}
	if !any {
		return nil
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("write host ports: %w", err)
	}
	// Lets the host reach the port on its loopback address too.
	return writeSysctl("1", "net/ipv4/conf", hostLink, "route_localnet")
}

// hostPort is the rule of one port towards one address; ok is false when they
// are of different families.
func hostPort(a netip.Addr, p portMapping) (rule []expr.Any, ok bool, err error) {
	proto, known := protocols[strings.ToLower(p.Protocol)]
	if !known {
		return nil, false, fmt.Errorf("host port %d: unknown protocol %q", p.HostPort, p.Protocol)
	}
	family := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		family = unix.NFPROTO_IPV6
	}
	if p.HostIP != "" {
		ip, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			return nil, false, fmt.Errorf("host port %d: %w", p.HostPort, err)
		}
		if ip = ip.Unmap(); ip.Is4() != a.Is4() {
			return nil, false, nil
		}
		if !ip.IsUnspecified() {
			rule = within(netip.PrefixFrom(ip, ip.BitLen()), destination)
		}
	}
	if rule == nil {
		rule = []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		}
	}
	return append(rule,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.HostPort)},
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, p.ContainerPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	), true, nil
}

func ruleOwner(o owner) string { return o.container + "/" + o.ifName }

// deleteHostPorts removes the owners' rules; a missing table is no error.
func deleteHostPorts(c *Conf, owners map[owner]bool) error {
	t, err := openTable(c)
	if err != nil {
		return err
	}
	gone := map[string]bool{}
	for o := range owners {
		gone[ruleOwner(o)] = true
	}
	for _, ch := range []*nftables.Chain{t.hostports, t.hairpin} {
		rules, err := t.conn.GetRules(t.t, ch)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list host ports: %w", err)
		}
		for _, r := range rules {
			if gone[string(r.UserData)] {
				if err := t.conn.DelRule(r); err != nil {
					return err
				}
			}
		}
	}
	if err := t.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove host ports: %w", err)
	}
	return nil
}

// deleteTable deletes a table; a missing one is no error.
func deleteTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}
