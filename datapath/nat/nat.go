// Package nat gives packets that leave a private range the machine's address:
// ranges go in, an nftables table of its own comes out.
package nat

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Masquerade writes the table anew: what comes from the IPv4 range and goes
// neither there nor to one of the others (keep) gets the address of the link
// it leaves by. It works in the caller's network namespace and needs root.
func Masquerade(table string, from netip.Prefix, keep ...netip.Prefix) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyIPv4}
	// Added first, so that deleting what may not be there succeeds.
	conn.AddTable(t)
	conn.DelTable(t)
	conn.AddTable(t)
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	const source, destination = 12, 16 // offsets in IPv4's header (RFC 791)
	for _, p := range append([]netip.Prefix{from}, keep...) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(within(p, destination), &expr.Verdict{Kind: expr.VerdictReturn})})
	}
	conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(within(from, source), &expr.Masq{})})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", table, err)
	}
	return nil
}

// within matches the address at an offset against an IPv4 prefix.
func within(p netip.Prefix, offset uint32) []expr.Any {
	p = p.Masked()
	mask := make([]byte, 4)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// Remove deletes the table; one that is not there is no error.
func Remove(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", table, err)
	}
	return nil
}
