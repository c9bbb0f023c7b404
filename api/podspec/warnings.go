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
// about a new pod given as one, whose path is given (nil: a pod).
func Warnings(t *corev1.PodTemplateSpec, path *field.Path) []string {
	if t == nil {
		return nil
	}
	w := warner{path: path}
	w.template(t)
	return w.out
}

type warner struct {
	path *field.Path
	out  []string
}

func (w *warner) warn(p *field.Path, format string, args ...any) {
	w.out = append(w.out, p.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warner) template(t *corev1.PodTemplateSpec) {
	if w.path == nil {
		w.spec(&t.Spec, field.NewPath("spec"))
		w.annotations(t.Annotations, &t.Spec, field.NewPath("metadata", "annotations"))
		return
	}
	w.spec(&t.Spec, w.path.Child("spec"))
	w.annotations(t.Annotations, &t.Spec, w.path.Child("metadata", "annotations"))
}

// NodeSelectorWarnings tells of outdated labels in node selector terms.
func NodeSelectorWarnings(terms []corev1.NodeSelectorTerm, path *field.Path) []string {
	var w warner
	for i := range terms {
		w.term(&terms[i], path.Index(i))
	}
	return w.out
}

func (w *warner) term(t *corev1.NodeSelectorTerm, p *field.Path) {
	for i, e := range t.MatchExpressions {
		if text, ok := deprecatedLabels[e.Key]; ok {
			w.warn(p.Child("matchExpressions").Index(i).Child("key"), "%s is %s", e.Key, text)
		}
	}
}

// DeprecatedLabel is what to say of a label of nodes that another has
// replaced, or "".
func DeprecatedLabel(key string) string { return deprecatedLabels[key] }

// PodNames are the names that a controller makes from its own, for NameWarnings.
const PodNames = "Pod names and hostnames"

// NameWarnings tells of an object's name that does badly in what it is used in.
func NameWarnings(name, what string) []string {
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", what, msgs)}
	}
	return nil
}

func (w *warner) spec(s *corev1.PodSpec, p *field.Path) {
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
	w.bytes(s.Overhead, p.Child("overhead"))
	w.ports(s, p)
	for i, c := range s.TopologySpreadConstraints {
		if text, ok := deprecatedLabels[c.TopologyKey]; ok {
			w.warn(p.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), "%s is %s", c.TopologyKey, text)
		}
		if c.LabelSelector == nil {
			w.warn(p.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), nullSelector)
		}
	}
	w.affinity(s.Affinity, p.Child("affinity"))
}

const nullSelector = "a null labelSelector results in matching no pod"

// affinity tells of terms that select nothing, and of outdated labels.
func (w *warner) affinity(a *corev1.Affinity, p *field.Path) {
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
	if n := a.NodeAffinity; n != nil {
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			w.out = append(w.out, NodeSelectorWarnings(n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms,
				p.Child("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"))...)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.term(&n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference,
				p.Child("nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
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
	for i := range s.Volumes {
		v, vp := &s.Volumes[i], p.Index(i)
		w.overlaps(v)
		switch {
		case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
			w.out = append(w.out, ClaimWarnings(&v.Ephemeral.VolumeClaimTemplate.Spec, vp.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
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
	w.bytes(c.Resources.Limits, p.Child("resources", "limits"))
	w.bytes(c.Resources.Requests, p.Child("resources", "requests"))
	seen := sets.New[string]()
	for i, e := range c.Env {
		// To define a variable anew from its old value is a common idiom.
		if seen.Has(e.Name) && !strings.Contains(e.Value, "$("+e.Name+")") {
			w.warn(p.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen.Insert(e.Name)
	}
}

// bytes tells of amounts of bytes that are none.
func (w *warner) bytes(list corev1.ResourceList, p *field.Path) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
			w.warn(p.Key(string(name)), fractionalBytes, q.String())
		}
	}
}

const fractionalBytes = "fractional byte value %q is invalid, must be an integer"

// ClaimWarnings tells of a claim's storage that is not a number of bytes. path
// is the spec's.
func ClaimWarnings(s *corev1.PersistentVolumeClaimSpec, path *field.Path) []string {
	var w warner
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
		w.warn(path.Child("resources", "requests").Key(string(corev1.ResourceStorage)), fractionalBytes, q.String())
	}
	if q, ok := s.Resources.Limits[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
		w.warn(path.Child("resources", "limits").Key(string(corev1.ResourceStorage)), fractionalBytes, q.String())
	}
	return w.out
}
