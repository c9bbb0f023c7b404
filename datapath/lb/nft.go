package lb

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// NFTConfig says what an nftables table is for.
type NFTConfig struct {
	// Name of the table; one per cluster and machine.
	Name string
	IPv6 bool
	// Pods is the range of the cluster's pods: what comes from elsewhere to
	// an internal frontend is masqueraded, so that the answer comes back
	// through this machine.
	Pods netip.Prefix
	// Services is the range of internal frontends: what matches no rule in it
	// is refused instead of leaving the machine. May be zero.
	Services netip.Prefix
	// NetNS is the descriptor of the network namespace to work in; 0 means
	// the process's own.
	NetNS int
}

// NFT is a Table in nftables, written over netlink without any helper
// program. The table:
//
//	map  frontends  address . protocol . port : goto svc-ID or ext-ID
//	map  nodeports  protocol . port           : goto ext-ID
//	map  refused, refused-ports               : frontends without backends
//	set  hairpin    backend . backend, masqueraded where a backend reaches itself
//	chain svc-ID    picks a backend at random (or the client's own) and rewrites to it
//	chain src-ID    lets permitted clients through to ext-ID
//	chain ext-ID    marks for masquerading, then svc-ID; or picks a local backend
type NFT struct {
	cfg   NFTConfig
	fam   *family
	conn  *nftables.Conn
	table *nftables.Table

	frontends, nodePorts, refused, refusedPorts, hairpin *nftables.Set

	rules map[string]Rule
	// loops counts the rules that use a backend address, for the hairpin set.
	loops map[netip.Addr]int
}

var _ Table = (*NFT)(nil)

// NewNFT opens a connection to the kernel; nothing is changed before Reset.
// It needs CAP_NET_ADMIN.
func NewNFT(cfg NFTConfig) (*NFT, error) {
	opts := []nftables.ConnOption{nftables.AsLasting()}
	if cfg.NetNS != 0 {
		opts = append(opts, nftables.WithNetNSFd(cfg.NetNS))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &NFT{cfg: cfg, fam: &ipv4, conn: conn}
	if cfg.IPv6 {
		t.fam = &ipv6
	}
	t.table = &nftables.Table{Name: cfg.Name, Family: t.fam.table}
	return t, nil
}

// Close closes the connection and leaves the table as it is.
func (t *NFT) Close() error { return t.conn.CloseLasting() }

// Purge implements Table.
func (t *NFT) Purge() error {
	t.dropTable()
	t.rules, t.loops = nil, nil
	return t.flush("remove the table")
}

// dropTable deletes the table whether or not it exists: adding first makes
// the deletion valid.
func (t *NFT) dropTable() {
	t.conn.AddTable(t.table)
	t.conn.DelTable(t.table)
}

func (t *NFT) flush(what string) error {
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %s: %w", what, err)
	}
	return nil
}

// Reset implements Table.
func (t *NFT) Reset(rules []Rule) error {
	t.dropTable()
	t.conn.AddTable(t.table)
	t.rules, t.loops = map[string]Rule{}, map[netip.Addr]int{}
	if err := t.skeleton(); err != nil {
		return err
	}
	// The kernel takes a batch of some thousand messages at most at a time.
	// The first goes together with the table itself, so that what was served
	// before is served all the while.
	for {
		n := min(len(rules), 200)
		if err := t.Apply(rules[:n], nil); err != nil {
			return err
		}
		if rules = rules[n:]; len(rules) == 0 {
			return nil
		}
	}
}

// skeleton adds what does not depend on the rules.
func (t *NFT) skeleton() error {
	f := t.fam
	full := nftables.MustConcatSetType(f.ip, nftables.TypeInetProto, nftables.TypeInetService)
	ports := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	t.frontends = &nftables.Set{Table: t.table, Name: "frontends", IsMap: true, KeyType: full, DataType: nftables.TypeVerdict}
	t.nodePorts = &nftables.Set{Table: t.table, Name: "nodeports", IsMap: true, KeyType: ports, DataType: nftables.TypeVerdict}
	t.refused = &nftables.Set{Table: t.table, Name: "refused", IsMap: true, KeyType: full, DataType: nftables.TypeVerdict}
	t.refusedPorts = &nftables.Set{Table: t.table, Name: "refused-ports", IsMap: true, KeyType: ports, DataType: nftables.TypeVerdict}
	t.hairpin = &nftables.Set{Table: t.table, Name: "hairpin", KeyType: nftables.MustConcatSetType(f.ip, f.ip)}
	for _, s := range []*nftables.Set{t.frontends, t.nodePorts, t.refused, t.refusedPorts, t.hairpin} {
		if err := t.conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("nftables: set %s: %w", s.Name, err)
		}
	}
	frontend := []expr.Any{f.load(f.dstAt, reg0), protoTo(reg0 + f.words), portTo(reg0 + f.words + 1)}
	nodePort := []expr.Any{protoTo(reg0), portTo(reg0 + 1)}

	t.chain("refuse")
	t.rule("refuse", f.refuse())
	services := "services"
	t.chain(services)
	t.rule(services, frontend, []expr.Any{lookup(t.frontends)})
	t.rule(services, toLocal(), nodePort, []expr.Any{lookup(t.nodePorts)})

	t.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	t.rule("prerouting", jump(services))
	t.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	t.rule("output", jump(services))
	t.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	t.rule("postrouting", masquerade())
	// Only what came here by a Service: a backend that is this machine talks to
	// itself by its own address too, and would do so under another one, which
	// may go away with all these connections.
	t.rule("postrouting", redirected(), []expr.Any{
		f.load(f.srcAt, reg0), f.load(f.dstAt, reg0+f.words),
		&expr.Lookup{SourceRegister: reg0, SetName: t.hairpin.Name, SetID: t.hairpin.ID},
		&expr.Masq{FullyRandom: true},
	})

	// Frontends without backends are refused after routing, where a packet
	// that found a backend has another destination already.
	t.chain("without")
	t.rule("without", frontend, []expr.Any{lookup(t.refused)})
	if t.cfg.Services.IsValid() {
		// The cluster DNS has its service address on this machine.
		t.rule("without", toLocal(), verdict(expr.VerdictReturn))
		t.rule("without", f.inPrefix(f.dstAt, t.cfg.Services, false), f.refuse())
	}
	t.base("filter-forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	t.rule("filter-forward", newConnection(), jump("without"))
	t.base("filter-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	t.rule("filter-output", newConnection(), jump("without"))
	t.rule("filter-output", newConnection(), toLocal(), nodePort, []expr.Any{lookup(t.refusedPorts)})
	t.base("filter-input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	t.rule("filter-input", newConnection(), frontend, []expr.Any{lookup(t.refused)})
	t.rule("filter-input", newConnection(), nodePort, []expr.Any{lookup(t.refusedPorts)})

	// route_localnet, which node ports on the loopback address need, must not
	// open the machine's loopback services to its neighbours (CVE-2020-8558).
	t.base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	t.rule("guard",
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg0},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)},
		},
		f.inPrefix(f.dstAt, f.loopback, false), verdict(expr.VerdictDrop))
	return nil
}

func (t *NFT) chain(name string) *nftables.Chain {
	return t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name})
}

func (t *NFT) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) {
	t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: typ, Hooknum: hook, Priority: prio})
}

func (t *NFT) rule(chain string, parts ...[]expr.Any) {
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: &nftables.Chain{Table: t.table, Name: chain}, Exprs: concat(parts...)})
}

// Apply implements Table.
func (t *NFT) Apply(set []Rule, remove []string) error {
	if t.rules == nil {
		return errors.New("nftables: Apply before Reset")
	}
	var gone []Rule
	for _, id := range remove {
		if r, ok := t.rules[id]; ok {
			gone = append(gone, r)
			if err := t.remove(r); err != nil {
				return err
			}
			delete(t.rules, id)
		}
	}
	for _, r := range set {
		if old, ok := t.rules[r.ID]; ok {
			if err := t.replace(r, old); err != nil {
				return err
			}
		} else if err := t.add(r); err != nil {
			return err
		}
		t.rules[r.ID] = r
	}
	if err := t.flush(fmt.Sprintf("apply %d rules, remove %d", len(set), len(gone))); err != nil {
		t.rules = nil // unknown: only Reset may follow
		return err
	}
	return nil
}

func internalChain(id string) string { return "svc-" + id }
func externalChain(id string) string { return "ext-" + id }
func sourceChain(id string) string   { return "src-" + id }
func affinityMap(id string) string   { return "aff-" + id }

// chains are a rule's chains, each before those it jumps to.
func chains(id string) []string {
	return []string{sourceChain(id), externalChain(id), internalChain(id)}
}

func (t *NFT) add(r Rule) error {
	for _, name := range chains(r.ID) {
		t.chain(name)
	}
	if r.Affinity > 0 {
		for _, m := range t.affinityMaps(r) {
			if err := t.conn.AddSet(m, nil); err != nil {
				return fmt.Errorf("nftables: affinity of %s: %w", r.Name, err)
			}
		}
	}
	if err := t.fill(r); err != nil {
		return err
	}
	if err := t.elements(r, nil); err != nil {
		return err
	}
	return t.count(r, 1)
}

// replace rewrites the rule's own chains and the map elements that differ.
func (t *NFT) replace(r, old Rule) error {
	if r.Affinity != old.Affinity || r.Affinity > 0 && !slices.Equal(r.Internal, old.Internal) {
		// The kernel cannot change a map's timeout, and a client must not be
		// held to a backend that is gone: begin the record anew.
		if err := t.remove(old); err != nil {
			return err
		}
		return t.add(r)
	}
	if err := t.count(r, 1); err != nil {
		return err
	}
	if err := t.count(old, -1); err != nil {
		return err
	}
	for _, name := range chains(r.ID) {
		t.conn.FlushChain(&nftables.Chain{Table: t.table, Name: name})
	}
	if err := t.fill(r); err != nil {
		return err
	}
	return t.elements(r, &old)
}

func (t *NFT) remove(r Rule) error {
	if err := t.elements(Rule{}, &r); err != nil {
		return err
	}
	for _, name := range chains(r.ID) {
		t.conn.FlushChain(&nftables.Chain{Table: t.table, Name: name})
	}
	for _, name := range chains(r.ID) {
		t.conn.DelChain(&nftables.Chain{Table: t.table, Name: name})
	}
	if r.Affinity > 0 {
		for _, m := range t.affinityMaps(r) {
			t.conn.DelSet(m)
		}
	}
	return t.count(r, -1)
}

// count keeps the hairpin set to the backends in use.
func (t *NFT) count(r Rule, sign int) error {
	for _, b := range r.Internal {
		a := b.Addr()
		before := t.loops[a]
		t.loops[a] = before + sign
		pair := []nftables.SetElement{{Key: append(a.AsSlice(), a.AsSlice()...)}}
		var err error
		switch {
		case before == 0 && sign > 0:
			err = t.conn.SetAddElements(t.hairpin, pair)
		case before == 1 && sign < 0:
			delete(t.loops, a)
			err = t.conn.SetDeleteElements(t.hairpin, pair)
		}
		if err != nil {
			return fmt.Errorf("nftables: hairpin of %s: %w", r.Name, err)
		}
	}
	return nil
}

// element is one entry of one of the four verdict maps.
type element struct {
	set   *nftables.Set
	key   []byte
	chain string
	drop  bool
}

func (t *NFT) elementsOf(r Rule) []element {
	var out []element
	for _, f := range r.Frontends {
		backends, local, chain := r.Internal, r.InternalLocal, internalChain(r.ID)
		if f.External {
			backends, local, chain = r.External, r.ExternalLocal, externalChain(r.ID)
			if r.ExternalLocal && len(r.Internal) > 0 {
				// Even without local backends: the chain lets this machine's own
				// pods in, and drops the rest.
				backends = r.Internal
			}
			if f.Guarded && len(r.Sources) > 0 {
				chain = sourceChain(r.ID)
			}
		}
		set, refused := t.frontends, t.refused
		key := portKey(r.Protocol, f.Port)
		if f.Addr.IsValid() {
			key = t.fam.frontendKey(f.Addr, r.Protocol, f.Port)
		} else {
			set, refused = t.nodePorts, t.refusedPorts
		}
		if len(backends) > 0 {
			out = append(out, element{set: set, key: key, chain: chain})
		} else {
			out = append(out, element{set: refused, key: key, chain: "refuse", drop: local})
		}
	}
	return out
}

func (e *element) same(o *element) bool {
	return e.set == o.set && e.chain == o.chain && e.drop == o.drop && bytes.Equal(e.key, o.key)
}

// elements brings the verdict maps from old (may be nil) to r.
func (t *NFT) elements(r Rule, old *Rule) error {
	want := t.elementsOf(r)
	var have []element
	if old != nil {
		have = t.elementsOf(*old)
	}
	in := func(list []element, e element) bool {
		return slices.ContainsFunc(list, func(o element) bool { return e.same(&o) })
	}
	for _, e := range have {
		if !in(want, e) {
			if err := t.conn.SetDeleteElements(e.set, []nftables.SetElement{t.entry(e)}); err != nil {
				return fmt.Errorf("nftables: frontend: %w", err)
			}
		}
	}
	for _, e := range want {
		if !in(have, e) {
			if err := t.conn.SetAddElements(e.set, []nftables.SetElement{t.entry(e)}); err != nil {
				return fmt.Errorf("nftables: frontend of %s: %w", r.Name, err)
			}
		}
	}
	return nil
}

func (t *NFT) entry(e element) nftables.SetElement {
	v := &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
	if e.drop {
		v = &expr.Verdict{Kind: expr.VerdictDrop}
	}
	return nftables.SetElement{Key: e.key, VerdictData: v}
}

// fill writes the rule's two chains.
func (t *NFT) fill(r Rule) error {
	f := t.fam
	svc, ext := internalChain(r.ID), externalChain(r.ID)
	if t.cfg.Pods.IsValid() {
		t.rule(svc, f.inPrefix(f.srcAt, t.cfg.Pods, true), mark())
	}
	if err := t.pick(svc, r, r.Internal, affinityMap(r.ID)); err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Frontends, func(f Frontend) bool { return f.External }) {
		return nil
	}
	for _, p := range r.Sources {
		if p.Addr().Is4() == t.fam.loopback.Addr().Is4() {
			t.rule(sourceChain(r.ID), f.inPrefix(f.srcAt, p, false), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: ext}})
		}
	}
	if len(r.Sources) > 0 {
		t.rule(sourceChain(r.ID), fromLocal(), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: ext}})
		t.rule(sourceChain(r.ID), verdict(expr.VerdictDrop))
	}
	return t.outside(ext, r)
}

// outside writes what an external frontend does.
func (t *NFT) outside(chain string, r Rule) error {
	svc := internalChain(r.ID)
	if !r.ExternalLocal {
		t.rule(chain, mark())
		t.rule(chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: svc}})
		return nil
	}
	// The cluster's own pods and this machine reach every backend.
	if t.cfg.Pods.IsValid() {
		t.rule(chain, t.fam.inPrefix(t.fam.srcAt, t.cfg.Pods, false), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: svc}})
	}
	t.rule(chain, fromLocal(), mark())
	t.rule(chain, fromLocal(), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: svc}})
	if len(r.External) == 0 {
		t.rule(chain, verdict(expr.VerdictDrop))
		return nil
	}
	return t.pick(chain, r, r.External, affinityMap(r.ID)+"-ext")
}

func (t *NFT) affinityMaps(r Rule) []*nftables.Set {
	value := nftables.MustConcatSetType(t.fam.ip, nftables.TypeInetService)
	var out []*nftables.Set
	for _, name := range []string{affinityMap(r.ID), affinityMap(r.ID) + "-ext"} {
		out = append(out, &nftables.Set{
			Table: t.table, Name: name, IsMap: true, HasTimeout: true, Dynamic: true,
			Timeout: r.Affinity, KeyType: t.fam.ip, DataType: value, Size: 65535,
		})
	}
	return out
}

// pick writes the rules that choose a backend and rewrite to it.
func (t *NFT) pick(chain string, r Rule, backends []netip.AddrPort, affinity string) error {
	if len(backends) == 0 {
		return nil
	}
	f := t.fam
	const value = reg0 + 4 // behind the longest address
	if r.Affinity > 0 {
		// Known clients: refresh the record with the backend it names.
		t.rule(chain, isProto(r.Protocol), []expr.Any{
			f.load(f.srcAt, reg0),
			&expr.Lookup{SourceRegister: reg0, DestRegister: value, IsDestRegSet: true, SetName: affinity},
			&expr.Dynset{SrcRegKey: reg0, SrcRegData: value, SetName: affinity, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: r.Affinity},
			f.dnat(value),
		})
	}
	choices := &nftables.Set{
		Table: t.table, Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: nftables.MustConcatSetType(f.ip, nftables.TypeInetService),
	}
	values := make([]nftables.SetElement, len(backends))
	for i, b := range backends {
		values[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: backendValue(b)}
	}
	if err := t.conn.AddSet(choices, values); err != nil {
		return fmt.Errorf("nftables: backends of %s: %w", r.Name, err)
	}
	choose := []expr.Any{
		&expr.Numgen{Register: reg0, Modulus: uint32(len(backends)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: reg0, DestRegister: value, IsDestRegSet: true, SetName: choices.Name, SetID: choices.ID},
	}
	if r.Affinity > 0 {
		choose = append(choose, f.load(f.srcAt, reg0),
			&expr.Dynset{SrcRegKey: reg0, SrcRegData: value, SetName: affinity, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: r.Affinity})
	}
	t.rule(chain, isProto(r.Protocol), choose, []expr.Any{f.dnat(value)})
	return nil
}
