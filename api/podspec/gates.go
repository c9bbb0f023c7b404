package podspec

import corev1 "k8s.io/api/core/v1"

// Gates are those features of pods that 1.36 has off by default and that can be
// switched on. The zero value is 1.36's default.
type Gates struct {
	ClusterTrustBundleProjection, ContainerStopSignals, PodCertificateRequest bool
}

// DropDisabled clears the fields of features that 1.36 has off by default and
// that are not on, unless old (may be nil), the stored spec, uses them:
// ContainerStopSignals, GenericWorkload, ClusterTrustBundleProjection and
// PodCertificateRequest.
func (g Gates) DropDisabled(spec, old *corev1.PodSpec) {
	if old == nil {
		old = &corev1.PodSpec{}
	}
	if old.SchedulingGroup == nil {
		spec.SchedulingGroup = nil
	}
	if !g.ContainerStopSignals && !usesStopSignal(old) {
		eachContainer(spec, func(c *corev1.Container) bool {
			if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
				c.Lifecycle.StopSignal = nil
				if *c.Lifecycle == (corev1.Lifecycle{}) {
					c.Lifecycle = nil
				}
			}
			return false
		})
	}
	bundle := func(p *corev1.VolumeProjection) bool { return p.ClusterTrustBundle != nil }
	certificate := func(p *corev1.VolumeProjection) bool { return p.PodCertificate != nil }
	if !g.ClusterTrustBundleProjection && !eachProjection(old, bundle) {
		eachProjection(spec, func(p *corev1.VolumeProjection) bool { p.ClusterTrustBundle = nil; return false })
	}
	if !g.PodCertificateRequest && !eachProjection(old, certificate) {
		eachProjection(spec, func(p *corev1.VolumeProjection) bool { p.PodCertificate = nil; return false })
	}
}

func usesStopSignal(spec *corev1.PodSpec) bool {
	return eachContainer(spec, func(c *corev1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.StopSignal != nil })
}

// eachContainer calls f for the containers of every sort until it returns
// true.
func eachContainer(spec *corev1.PodSpec, f func(*corev1.Container) bool) bool {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if f(&list[i]) {
				return true
			}
		}
	}
	for i := range spec.EphemeralContainers {
		if f((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon)) {
			return true
		}
	}
	return false
}

// eachProjection does the same for the sources of projected volumes.
func eachProjection(spec *corev1.PodSpec, f func(*corev1.VolumeProjection) bool) bool {
	for i := range spec.Volumes {
		p := spec.Volumes[i].Projected
		if p == nil {
			continue
		}
		for j := range p.Sources {
			if f(&p.Sources[j]) {
				return true
			}
		}
	}
	return false
}
