// Package lb spreads connections over backends in the kernel: rules go in,
// nftables sets, maps and chains come out, changed in place. What it writes
// for one rule is proportional to that rule, never to the number of rules.
package lb

import (
	"net/netip"
	"time"
)

// Protocol numbers of IP.
const (
	TCP  uint8 = 6
	UDP  uint8 = 17
	SCTP uint8 = 132
)

// Frontend is an address under which a rule is reached.
type Frontend struct {
	// Addr is the destination address; the zero value means any address of
	// this machine (a node port).
	Addr netip.Addr
	Port uint16
	// External frontends (node ports, load balancer and external addresses)
	// follow the rule's External side, others its Internal side.
	External bool
	// Guarded frontends accept only the rule's Sources, if it names any.
	Guarded bool
}

// Rule spreads what comes to its frontends over its backends. Rules are
// values; a table does not change what it was given.
type Rule struct {
	// ID is unique and stable; it names the rule's chains: letters, digits,
	// dashes and underscores, at most 64.
	ID string
	// Name is for people ("default/web:http").
	Name      string
	Protocol  uint8
	Frontends []Frontend
	// Internal are the backends of connections to internal frontends.
	Internal []netip.AddrPort
	// External are those of connections to external frontends. With
	// ExternalLocal they keep the client's address and an empty list drops
	// instead of refusing.
	External      []netip.AddrPort
	ExternalLocal bool
	// InternalLocal says that an empty Internal list drops.
	InternalLocal bool
	// Affinity keeps a client at its backend for that long after its last
	// connection; 0 means none.
	Affinity time.Duration
	// Sources, if not empty, are the only clients of Guarded frontends.
	Sources []netip.Prefix
}

// Table applies rules of one address family. Implementations are not safe for
// concurrent use.
type Table interface {
	// Reset makes the table hold exactly these rules, whatever it held
	// before, in one step that established connections survive.
	Reset(rules []Rule) error
	// Apply replaces (by ID) or adds the first, and removes the second. All
	// of it or nothing is done; after an error the caller calls Reset.
	Apply(set []Rule, remove []string) error
	// Purge removes the table.
	Purge() error
}

// Fake is a Table for tests: it holds the rules by ID and counts what was
// written. It is not safe for concurrent use.
type Fake struct {
	Rules  map[string]Rule
	Writes int
	// Err, if set, is what Apply returns once.
	Err error
}

// Reset implements Table.
func (f *Fake) Reset(rules []Rule) error {
	f.Rules = map[string]Rule{}
	return f.Apply(rules, nil)
}

// Apply implements Table.
func (f *Fake) Apply(set []Rule, remove []string) error {
	if err := f.Err; err != nil {
		f.Err = nil
		return err
	}
	if f.Rules == nil {
		f.Rules = map[string]Rule{}
	}
	for _, id := range remove {
		delete(f.Rules, id)
	}
	for _, r := range set {
		f.Rules[r.ID] = r
	}
	f.Writes += len(set) + len(remove)
	return nil
}

// Purge implements Table.
func (f *Fake) Purge() error {
	f.Rules = nil
	return nil
}
