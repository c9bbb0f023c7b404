package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Main runs the plugin: one command from the environment and standard input,
// one answer on standard output, as the CNI specification has it.
func Main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, Status: status, GC: gc},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "cox pod network plugin")
}

func add(args *skel.CmdArgs) (err error) {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	who := owner{args.ContainerID, args.IfName}
	ports := c.RuntimeConfig.PortMappings
	addrs, err := reserve(c, who, len(ports) > 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(&c.Conf, who))
		}
	}()
	l, err := attach(c, args.Netns, who, addrs)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		if err := addHostPorts(&c.Conf, l.hostName, who, addrs, ports); err != nil {
			return err
		}
	}
	return types.PrintResult(l.result(args.Netns, &c.Conf), c.CNIVersion)
}

func reserve(c *pluginConf, who owner, ports bool) ([]netip.Addr, error) {
	state, err := openIPAM(c.StateDir)
	if err != nil {
		return nil, err
	}
	defer state.close()
	// Made by the node before the first pod; here for after a reboot, when
	// the runtime may be first. Under the lock, so it is done once.
	if err := ensureSetup(&c.Conf); err != nil {
		return nil, err
	}
	return state.take(c.PodCIDRs, who, ports)
}

func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return remove(&c.Conf, owner{args.ContainerID, args.IfName})
}

// remove takes back all that add gave; what is gone already is no error.
func remove(c *Conf, who owner) error {
	return drop(c, func(o owner) bool { return o == who }, who)
}

// removalLock is locked by one removal at a time. The kernel takes tens of
// milliseconds to delete a link, and nobody can change a link meanwhile: many
// removals side by side are no faster and in the way of pods that start. These
// need the lock of the addresses, which a removal therefore has only once its
// links are gone.
const removalLock = "removal"

// drop releases the leases of the owners that match, and the links of those
// and of extra.
func drop(c *Conf, match func(owner) bool, extra ...owner) error {
	turn, err := lockFile(c.StateDir, removalLock)
	if err != nil {
		return fmt.Errorf("wait for other removals: %w", err)
	}
	defer turn.Close()
	gone, err := leaving(c, match)
	if err != nil {
		return err
	}
	for _, o := range extra {
		gone[o] = true
	}
	// Links first: while an address is still taken, nobody else gets it.
	var errs []error
	for o := range gone {
		errs = append(errs, deleteLink(hostName(o)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return release(c, gone)
}

// leaving lists the owners of leases that match.
func leaving(c *Conf, match func(owner) bool) (map[owner]bool, error) {
	state, err := openIPAM(c.StateDir)
	if err != nil {
		return nil, err
	}
	defer state.close()
	leases, err := state.leases()
	if err != nil {
		return nil, err
	}
	gone := map[owner]bool{}
	for _, l := range leases {
		if match(l.owner) {
			gone[l.owner] = true
		}
	}
	return gone, nil
}

// release frees the owners' host ports and addresses, as they are now.
func release(c *Conf, gone map[owner]bool) error {
	state, err := openIPAM(c.StateDir)
	if err != nil {
		return err
	}
	defer state.close()
	leases, err := state.leases()
	if err != nil {
		return err
	}
	ports := map[owner]bool{}
	for _, l := range leases {
		if gone[l.owner] && l.ports {
			ports[l.owner] = true
		}
	}
	if len(ports) > 0 {
		if err := deleteHostPorts(c, ports); err != nil {
			return err
		}
	}
	var errs []error
	for _, l := range leases {
		if gone[l.owner] {
			errs = append(errs, state.release(l.addr))
		}
	}
	return errors.Join(errs...)
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	who := owner{args.ContainerID, args.IfName}
	state, err := openIPAM(c.StateDir)
	if err != nil {
		return err
	}
	defer state.close()
	leases, err := state.leases()
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, l := range leases {
		if l.owner == who {
			addrs = append(addrs, l.addr)
		}
	}
	if len(addrs) != len(c.PodCIDRs) {
		return fmt.Errorf("container %s has %d addresses, want %d", args.ContainerID, len(addrs), len(c.PodCIDRs))
	}
	return verify(args.Netns, who, addrs)
}

// The codes that STATUS answers with, by the CNI specification.
const (
	notAvailable       = 50
	notAvailableLegacy = 51
)

func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return types.NewError(notAvailable, "the network is not configured", err.Error())
	}
	if err := forwarding(c.PodCIDRs); err != nil {
		return types.NewError(notAvailableLegacy, "the network is limited", err.Error())
	}
	return nil
}

func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid := map[owner]bool{}
	for _, a := range c.ValidAttachments {
		valid[owner{a.ContainerID, a.IfName}] = true
	}
	return drop(&c.Conf, func(o owner) bool { return !valid[o] })
}

// result says what the pod got.
func (l *link) result(netns string, c *Conf) *current.Result {
	res := &current.Result{CNIVersion: Version, Interfaces: []*current.Interface{
		{Name: l.hostName, Mac: hostMAC.String(), Mtu: l.mtu},
		{Name: l.podName, Mac: l.podMAC.String(), Mtu: l.mtu, Sandbox: netns},
	}}
	inPod := 1
	for i, a := range l.addrs {
		gw := Gateway(c.PodCIDRs[i]).AsSlice()
		res.IPs = append(res.IPs, &current.IPConfig{
			Interface: &inPod, Gateway: gw,
			Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		})
		res.Routes = append(res.Routes, &types.Route{
			Dst: net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}, GW: gw,
		})
	}
	return res
}
