// Package cni is cox's pod network plugin: CNI commands go in, a pod's network
// namespace with addresses, routes and host ports comes out.
//
// Pods are routed, not bridged: each has a veth pair whose host end carries
// the route to the pod's address, and sends everything through the host. So
// Service translation and network policy see all traffic without bridge
// netfilter, also between pods of one node, and there are no ARP requests to
// wait for: both ends know each other's hardware address.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/coxswain/cox/internal/atomicfile"
)

// Plugin is the plugin's name in a configuration and in a plugin folder.
const Plugin = "cox-cni"

// Version is the CNI version that configurations are written in.
const Version = "1.1.0"

// fileName sorts behind what an administrator or another network's installer
// puts there, so that theirs wins.
const fileName = "90-cox.conflist"

// Conf describes a node's pod network. Several nodes in one network namespace
// differ in Name, StateDir and PodCIDRs.
type Conf struct {
	// Name tells this network from others on the host: letters, digits, "-".
	Name string `json:"-"`
	// PodCIDRs are the node's own, at most one of IPv4 and one of IPv6.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// ClusterCIDRs are those of all pods: between them addresses are kept.
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"`
	// StateDir holds which pod has which address. It should not survive a
	// reboot, because pods do not either.
	StateDir string `json:"stateDir"`
	// MTU of the pods' links; 0 takes that of the default route's.
	MTU int `json:"mtu,omitempty"`
	// NoMasquerade leaves pods their address also to the outside.
	NoMasquerade bool `json:"noMasquerade,omitempty"`
}

// table is the nftables table of the network.
func (c *Conf) table() string { return "cox-cni-" + c.Name }

func (c *Conf) check() error {
	if c.Name == "" || len(c.Name) > 64 {
		return errors.New("the network needs a name of at most 64 characters")
	}
	if !filepath.IsAbs(c.StateDir) {
		return fmt.Errorf("stateDir %q must be an absolute path", c.StateDir)
	}
	if len(c.PodCIDRs) == 0 {
		return errors.New("podCIDRs must name at least one range")
	}
	var seen [2]bool
	for _, p := range c.PodCIDRs {
		if !p.IsValid() || p.Addr().BitLen()-p.Bits() < 2 {
			return fmt.Errorf("pod CIDR %v is too small", p)
		}
		family := 0
		if p.Addr().Is6() {
			family = 1
		}
		if seen[family] {
			return errors.New("podCIDRs may hold one range of each IP family")
		}
		seen[family] = true
	}
	return nil
}

// Gateway is the address that the node itself has in a pod CIDR: the first.
func Gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// Addresses is how many pods can have an address of a pod CIDR at a time: all
// of its addresses but its first, the node's own, and IPv4's last.
func Addresses(p netip.Prefix) int {
	bits := p.Addr().BitLen() - p.Bits()
	if bits >= 31 {
		return math.MaxInt32 // more than there will ever be pods
	}
	n := 1<<bits - 2
	if p.Addr().Is4() {
		n--
	}
	return max(n, 0)
}

// portMapping is one host port, as the runtime passes it.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// bandwidth is the runtime's shape of the pod's bandwidth annotations, in
// bits.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// pluginConf is what the plugin reads from standard input.
type pluginConf struct {
	types.PluginConf
	Conf
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
		Bandwidth    *bandwidth    `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

func parse(stdin []byte) (*pluginConf, error) {
	// PluginConf's own decoder would shadow our fields, so decode apart.
	var c pluginConf
	if err := json.Unmarshal(stdin, &c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration", err.Error())
	}
	if err := json.Unmarshal(stdin, &c.Conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration", err.Error())
	}
	var rt struct {
		RuntimeConfig *struct {
			PortMappings []portMapping `json:"portMappings"`
			Bandwidth    *bandwidth    `json:"bandwidth"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(stdin, &rt); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "runtime configuration", err.Error())
	}
	if rt.RuntimeConfig != nil {
		c.RuntimeConfig.PortMappings = rt.RuntimeConfig.PortMappings
		c.RuntimeConfig.Bandwidth = rt.RuntimeConfig.Bandwidth
	}
	c.Conf.Name = c.PluginConf.Name
	if err := c.check(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration", err.Error())
	}
	return &c, nil
}

// WriteConfig writes the network's configuration into the runtime's folder,
// as a whole and only if it changed: the runtime watches the folder and loads
// it at once.
func WriteConfig(dir string, c Conf) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	plugin := struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
		Conf
	}{Plugin, map[string]bool{"portMappings": true, "bandwidth": true}, c}
	b, err := json.MarshalIndent(map[string]any{
		"cniVersion": Version, "name": c.Name, "plugins": []any{plugin},
	}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, fileName)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	if err := atomicfile.Write(path, b, 0o644); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	return nil
}
