package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deprecatedLabels are node labels that others have replaced.
var deprecatedLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	corev1.LabelFailureDomainBetaRegion: `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	corev1.LabelInstanceType:            `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"beta.kubernetes.io/arch":           `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":             `deprecated since v1.14; use "kubernetes.io/os" instead`,
}

// Warnings returns the deprecation and usage warnings about a template, or
// about a pod given as one, whose path is given (nil: a pod). Nothing is said
// of a spec that an update leaves as it is; old is nil on create.
func Warnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string {
	if t == nil {
		return nil
	}
	w := warner{path: path}
	w.spec(&t.Spec)
	if old == nil {
		return w.out
	}
	before := warner{path: path}
	before.spec(&old.Spec)
	known := sets.New(before.out...)
	var out []string
	for _, text := range w.out {
		if !known.Has(text) {
			out = append(out, text)
		}
	}
	return out
}

type warner struct {
	path *field.Path
	out  []string
}

func (w *warner) warn(p *field.Path, format string, args ...any) {
	w.out = append(w.out, p.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warner) spec(s *corev1.PodSpec) {
	p := w.path.Child("spec")
	if w.path == nil {
		p = field.NewPath("spec")
	}
	for _, k := range sets.List(sets.KeySet(s.NodeSelector)) {
		if text, ok := deprecatedLabels[k]; ok {
			w.warn(p.Child("nodeSelector").Key(k), "%s", text)
		}
	}
	for i, a := range s.HostAliases {
		w.out = append(w.out, validation.GetWarningsForIP(p.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
	names := sets.New[string]()
	for i, r := range s.ImagePullSecrets {
		if r.Name == "" {
			w.warn(p.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", r.Name)
		}
	}
	for i, a := range s.HostAliases {
		if names.Has(a.IP) {
			w.warn(p.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		names.Insert(a.IP)
	}
	w.volumes(s, p.Child("volumes"))
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		w.warn(p.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	for i := range s.InitContainers {
		w.container(&s.InitContainers[i], p.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		w.container(&s.Containers[i], p.Child("containers").Index(i))
	}
	w.duplicatePorts(s, p)
	for i, c := range s.TopologySpreadConstraints {
		if text, ok := deprecatedLabels[c.TopologyKey]; ok {
			w.warn(p.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), "%s is %s", c.TopologyKey, text)
		}
		if c.LabelSelector == nil {
			w.warn(p.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), nullSelector)
		}
	}
	w.podAffinity(s.Affinity, p.Child("affinity"))
}

const nullSelector = "a null labelSelector results in matching no pod"

// podAffinity tells of terms that select nothing.
func (w *warner) podAffinity(a *corev1.Affinity, p *field.Path) {
	if a == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, p *field.Path) {
		for i := range required {
			if required[i].LabelSelector == nil {
				w.warn(p.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), nullSelector)
			}
		}
		for i := range preferred {
			if preferred[i].PodAffinityTerm.LabelSelector == nil {
				w.warn(p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), nullSelector)
			}
		}
	}
	if t := a.PodAffinity; t != nil {
		terms(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))
	}
	if t := a.PodAntiAffinity; t != nil {
		terms(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))
	}
}

func (w *warner) volumes(s *corev1.PodSpec, p *field.Path) {
	for i, v := range s.Volumes {
		vp := p.Index(i)
		switch {
		case v.GitRepo != nil:
			w.warn(vp.Child("gitRepo"), "deprecated in v1.11, and disabled by default in v1.33+")
		case v.ScaleIO != nil:
			w.warn(vp.Child("scaleIO"), "deprecated in v1.16, non-functional in v1.22+")
		case v.Flocker != nil:
			w.warn(vp.Child("flocker"), "deprecated in v1.22, non-functional in v1.25+")
		case v.StorageOS != nil:
			w.warn(vp.Child("storageOS"), "deprecated in v1.22, non-functional in v1.25+")
		case v.Quobyte != nil:
			w.warn(vp.Child("quobyte"), "deprecated in v1.22, non-functional in v1.25+")
		case v.Glusterfs != nil:
			w.warn(vp.Child("glusterfs"), "deprecated in v1.25, non-functional in v1.26+")
		case v.CephFS != nil:
			w.warn(vp.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
		case v.RBD != nil:
			w.warn(vp.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
		case v.PhotonPersistentDisk != nil:
			w.warn(vp.Child("photonPersistentDisk"), "deprecated in v1.11, non-functional in v1.16+")
		}
	}
}

func (w *warner) container(c *corev1.Container, p *field.Path) {
	for _, l := range []struct {
		list corev1.ResourceList
		name string
	}{{c.Resources.Limits, "limits"}, {c.Resources.Requests, "requests"}} {
		for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
			if q, ok := l.list[name]; ok && q.MilliValue()%1000 != 0 {
				w.warn(p.Child("resources", l.name).Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
			}
		}
	}
	seen := sets.New[string]()
	for i, e := range c.Env {
		// To define a variable anew from its old value is a common idiom.
		if seen.Has(e.Name) && !strings.Contains(e.Value, "$("+e.Name+")") {
			w.warn(p.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen.Insert(e.Name)
	}
}

// duplicatePorts tells of ports that a strategic merge would mix up.
func (w *warner) duplicatePorts(s *corev1.PodSpec, p *field.Path) {
	type key struct {
		port     int32
		protocol corev1.Protocol
	}
	seen := map[key]string{}
	for i, c := range s.Containers {
		for j, port := range c.Ports {
			path := p.Child("containers").Index(i).Child("ports").Index(j)
			k := key{port.ContainerPort, port.Protocol}
			if before, dup := seen[k]; dup && port.ContainerPort != 0 {
				w.warn(path, "duplicate port definition with %s", before)
				continue
			}
			seen[k] = path.String()
		}
	}
}
