package main

import (
	"fmt"

	"github.com/coxswain/cox/kubelet"
	kubeletsettings "github.com/coxswain/cox/kubelet/settings"
)

// loadKubelet reads the kubelet's own configuration. Flags that were given win
// over it.
func (c *config) loadKubelet() error {
	s, err := kubeletsettings.Load(c.KubeletConfig, c.KubeletConfigDir)
	if err != nil {
		return fmt.Errorf("--kubelet-config: %w", err)
	}
	c.kubeletConf = s
	if c.given["kubelet-port"] || !c.hasKubeletConfig() {
		s.Port = int32(c.KubeletPort)
	}
	if c.given["max-pods"] || !c.hasKubeletConfig() {
		s.MaxPods = int32(c.MaxPods)
	}
	c.KubeletPort, c.MaxPods = int(s.Port), int(s.MaxPods)
	if !c.given["pod-manifest-path"] && s.StaticPodPath != "" {
		c.StaticPodPath = s.StaticPodPath
	}
	s.StaticPodPath = c.StaticPodPath
	if s.ResolverConfig != nil && !c.given["resolv-conf"] {
		c.ResolvConf = *s.ResolverConfig
	}
	s.ResolverConfig = nil // it is in c
	return nil
}

func (c *config) hasKubeletConfig() bool { return c.KubeletConfig != "" || c.KubeletConfigDir != "" }

// applyKubelet puts the kubelet's own configuration into effect.
func (c *config) applyKubelet(k *kubelet.Config) error {
	k.MaxPods, k.Port = c.MaxPods, c.KubeletPort
	if c.kubeletConf.CgroupRoot != "" {
		// Below it is what `cox down --purge` takes away.
		c.kubeletConf.Warnings = append(c.kubeletConf.Warnings, "cgroupRoot has no effect: pods are below the cluster's own cgroup "+k.CgroupRoot)
		c.kubeletConf.CgroupRoot = ""
	}
	if c.kubeletConf.PodLogsDir != "" {
		c.kubeletConf.Warnings = append(c.kubeletConf.Warnings, "podLogsDir has no effect: logs are in the data directory, "+k.LogDir)
		c.kubeletConf.PodLogsDir = ""
	}
	if err := c.kubeletConf.Apply(k); err != nil {
		return err
	}
	c.kubeletConf.Show(k)
	return nil
}

// kubeletListen is where the kubelet's API listens.
func (c *config) kubeletListen() string {
	if c.kubeletConf.Address == "0.0.0.0" {
		return fmt.Sprintf(":%d", c.KubeletPort) // every family
	}
	return c.kubeletConf.Listen()
}
