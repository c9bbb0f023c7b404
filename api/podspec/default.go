package podspec

import (
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Default sets 1.36's defaults of a pod spec as they hold for pods and
// templates alike. It is idempotent. What only pods get is DefaultPod.
func Default(spec *corev1.PodSpec) {
	def(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	def(&spec.DNSPolicy, corev1.DNSClusterFirst)
	def(&spec.SchedulerName, corev1.DefaultSchedulerName)
	defPtr(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	defPtr(&spec.SecurityContext, corev1.PodSecurityContext{})
	// The deprecated alias always shows what serviceAccountName says.
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		defaultContainer(&c)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		DefaultResources(spec.Resources)
	}
}

// DefaultTemplate is Default for a template.
func DefaultTemplate(t *corev1.PodTemplateSpec) {
	DropInitContainerAnnotations(&t.Annotations)
	Default(&t.Spec)
}

// def sets *p to v if it is the zero value.
func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// defPtr points *p to v if it is nil.
func defPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// DefaultResources rounds quantities up to whole milli-units, as every
// resource list in the API is.
func DefaultResources(r *corev1.ResourceRequirements) {
	roundUp(r.Limits)
	roundUp(r.Requests)
}

// RoundUp is DefaultResources for one list, which it changes in place.
func RoundUp(l corev1.ResourceList) { roundUp(l) }

func roundUp(l corev1.ResourceList) {
	for name, q := range l {
		q.RoundUp(resource.Milli)
		l[name] = q
	}
}

func defaultContainer(c *corev1.Container) {
	for i := range c.Ports {
		def(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if f := c.Env[i].ValueFrom; f != nil {
			if f.FieldRef != nil {
				def(&f.FieldRef.APIVersion, "v1")
			}
			if f.FileKeyRef != nil {
				defPtr(&f.FileKeyRef.Optional, false)
			}
		}
	}
	DefaultResources(&c.Resources)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
	def(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	def(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = pullPolicy(c.Image)
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	def(&p.TimeoutSeconds, 1)
	def(&p.PeriodSeconds, 10)
	def(&p.SuccessThreshold, 1)
	def(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		defPtr(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	if h == nil {
		return
	}
	def(&h.Path, "/")
	def(&h.Scheme, corev1.URISchemeHTTP)
}

// pullPolicy is Always for an image that is named by the tag latest or by
// nothing at all.
func pullPolicy(image string) corev1.PullPolicy {
	if tag, ok := plainImage(image); ok {
		if tag == "" || tag == "latest" {
			return corev1.PullAlways
		}
		return corev1.PullIfNotPresent
	}
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	tagged, isTagged := ref.(reference.Tagged)
	_, isDigested := ref.(reference.Digested)
	if isTagged && tagged.Tag() == "latest" || !isTagged && !isDigested {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// plainImage returns the tag of an image whose name is obviously valid. That
// saves most pods the parser, which takes longer than all other defaults.
func plainImage(image string) (tag string, ok bool) {
	name, tag, tagged := strings.Cut(image, ":")
	if len(name) > 128 || len(name) == 64 || len(tag) > 128 || tagged && tag == "" {
		return "", false // too long, or an image's ID
	}
	within := false // a part of the name
	for i := range len(name) {
		switch b := name[i]; {
		case 'a' <= b && b <= 'z' || '0' <= b && b <= '9':
			within = true
		case within && (b == '/' || b == '.' || b == '-' || b == '_'):
			within = false
		default:
			return "", false
		}
	}
	for i := range len(tag) {
		b := tag[i]
		word := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_'
		if !word && (i == 0 || b != '.' && b != '-') {
			return "", false
		}
	}
	return tag, within
}

func defaultVolume(v *corev1.Volume) {
	s := &v.VolumeSource
	if *s == (corev1.VolumeSource{}) {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	const mode int32 = 0o644
	switch {
	case s.HostPath != nil:
		DefaultHostPath(s.HostPath)
	case s.Secret != nil:
		defPtr(&s.Secret.DefaultMode, mode)
	case s.ConfigMap != nil:
		defPtr(&s.ConfigMap.DefaultMode, mode)
	case s.DownwardAPI != nil:
		defPtr(&s.DownwardAPI.DefaultMode, mode)
		defaultDownward(s.DownwardAPI.Items)
	case s.Projected != nil:
		defaultProjected(s.Projected, mode)
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		DefaultClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	case s.Image != nil:
		if s.Image.PullPolicy == "" {
			s.Image.PullPolicy = pullPolicy(s.Image.Reference)
		}
	case s.ISCSI != nil:
		def(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		def(&s.RBD.RBDPool, "rbd")
		def(&s.RBD.RadosUser, "admin")
		def(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		DefaultAzureDisk(s.AzureDisk)
	case s.ScaleIO != nil:
		def(&s.ScaleIO.StorageMode, "ThinProvisioned")
		def(&s.ScaleIO.FSType, "xfs")
	}
}

func defaultProjected(p *corev1.ProjectedVolumeSource, mode int32) {
	defPtr(&p.DefaultMode, mode)
	for i := range p.Sources {
		if s := p.Sources[i].ServiceAccountToken; s != nil {
			defPtr(&s.ExpirationSeconds, int64(3600))
		}
		if s := p.Sources[i].DownwardAPI; s != nil {
			defaultDownward(s.Items)
		}
	}
}

func defaultDownward(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		if f := files[i].FieldRef; f != nil {
			def(&f.APIVersion, "v1")
		}
	}
}

// DefaultPersistentSource sets what the sources of a persistent volume leave
// open.
func DefaultPersistentSource(s *corev1.PersistentVolumeSource) {
	if s.HostPath != nil {
		DefaultHostPath(s.HostPath)
	}
	if s.ISCSI != nil {
		def(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		def(&s.RBD.RBDPool, "rbd")
		def(&s.RBD.RadosUser, "admin")
		def(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.AzureDisk != nil {
		DefaultAzureDisk(s.AzureDisk)
	}
	if s.ScaleIO != nil {
		def(&s.ScaleIO.StorageMode, "ThinProvisioned")
		def(&s.ScaleIO.FSType, "xfs")
	}
}

// DefaultHostPath names the unset type.
func DefaultHostPath(h *corev1.HostPathVolumeSource) { defPtr(&h.Type, corev1.HostPathUnset) }

// DefaultAzureDisk sets the defaults of an Azure disk.
func DefaultAzureDisk(d *corev1.AzureDiskVolumeSource) {
	defPtr(&d.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	defPtr(&d.Kind, corev1.AzureSharedBlobDisk)
	defPtr(&d.FSType, "ext4")
	defPtr(&d.ReadOnly, false)
}

// DefaultClaimSpec sets the defaults of a persistent volume claim's spec, in
// a claim or in a template of one.
func DefaultClaimSpec(c *corev1.PersistentVolumeClaimSpec) {
	defPtr(&c.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
}
