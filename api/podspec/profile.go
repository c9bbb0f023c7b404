package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	appArmorPrefix         = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	seccompPod             = corev1.SeccompPodAnnotationKey
	seccompContainerPrefix = corev1.SeccompContainerAnnotationKeyPrefix
	useAppArmorField       = `deprecated since v1.30; use the "appArmorProfile" field instead`
	useSeccompField        = `non-functional in v1.27+; use the "seccompProfile" field instead`
)

// AppArmorFields gives the containers of a new pod the profiles that
// annotations name (KEP-24).
func AppArmorFields(spec *corev1.PodSpec, annotations map[string]string) {
	eachOutdatedAppArmor(spec, annotations, func(c *corev1.Container) {
		if p := appArmorProfile(annotations[appArmorPrefix+c.Name]); p != nil {
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = p
		}
	})
}

// AppArmorWarnings says which of a new pod's annotations AppArmorFields will
// turn into fields, or cannot.
func AppArmorWarnings(spec *corev1.PodSpec, annotations map[string]string) (warnings []string) {
	eachOutdatedAppArmor(spec, annotations, func(c *corev1.Container) {
		warnings = append(warnings, fmt.Sprintf("metadata.annotations[%s]: %s", appArmorPrefix+c.Name, useAppArmorField))
	})
	return warnings
}

func eachOutdatedAppArmor(spec *corev1.PodSpec, annotations map[string]string, f func(*corev1.Container)) {
	if len(annotations) == 0 || spec.OS != nil && spec.OS.Name == corev1.Windows {
		return
	}
	eachContainer(spec, func(c *corev1.Container) bool {
		if outdatedAppArmor(spec, c, annotations) {
			f(c)
		}
		return false
	})
}

// outdatedAppArmor says that a container's profile stands in an annotation and
// not in fields.
func outdatedAppArmor(spec *corev1.PodSpec, c *corev1.Container, annotations map[string]string) bool {
	value, ok := annotations[appArmorPrefix+c.Name]
	if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
		return false
	}
	s := spec.SecurityContext
	return s == nil || s.AppArmorProfile == nil || !apiequality.Semantic.DeepEqual(s.AppArmorProfile, appArmorProfile(value))
}

// appArmorProfile is an annotation's value as a field, nil if it is none.
func appArmorProfile(value string) *corev1.AppArmorProfile {
	switch name, local := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix); {
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case local && name != "":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// seccompProfile does the same for seccomp.
func seccompProfile(value string) *corev1.SeccompProfile {
	switch name, local := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); {
	case value == corev1.SeccompProfileNameUnconfined:
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
	case value == corev1.SeccompProfileRuntimeDefault, value == corev1.DeprecatedSeccompProfileDockerDefault:
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	case local:
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// seccompAnnotations checks that the profiles that annotations name are ones.
func seccompAnnotations(a map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range sets.List(sets.KeySet(a)) {
		if (key == seccompPod || strings.HasPrefix(key, seccompContainerPrefix)) && seccompProfile(a[key]) == nil {
			errs = append(errs, field.Invalid(path.Child(key), a[key], "must be a valid seccomp profile"))
		}
	}
	return errs
}

// ProfilesAgree checks that the annotations of a new pod or template name the
// same profiles as the fields, where both do. path is the spec's.
func ProfilesAgree(a map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	if len(a) == 0 {
		return nil
	}
	var errs field.ErrorList
	seccomp := func(key string, f *corev1.SeccompProfile, p *field.Path) {
		value, ok := a[key]
		if !ok || f == nil {
			return
		}
		errs = append(errs, profilesAgree("seccomp", seccompProfile(value), f, p.Child("seccompProfile"), func(s *corev1.SeccompProfile) (string, *string) {
			return string(s.Type), s.LocalhostProfile
		})...)
	}
	if s := spec.SecurityContext; s != nil {
		seccomp(seccompPod, s.SeccompProfile, path.Child("securityContext"))
	}
	each := func(c *corev1.Container, p *field.Path) {
		s := c.SecurityContext
		if s == nil {
			return
		}
		seccomp(seccompContainerPrefix+c.Name, s.SeccompProfile, p.Child("securityContext"))
		if value, ok := a[appArmorPrefix+c.Name]; ok && s.AppArmorProfile != nil {
			errs = append(errs, profilesAgree("apparmor", appArmorProfile(value), s.AppArmorProfile, p.Child("securityContext", "appArmorProfile"), func(s *corev1.AppArmorProfile) (string, *string) {
				return string(s.Type), s.LocalhostProfile
			})...)
		}
	}
	for i := range spec.InitContainers {
		each(&spec.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range spec.Containers {
		each(&spec.Containers[i], path.Child("containers").Index(i))
	}
	return errs
}

// profilesAgree compares a profile of an annotation, nil if it is none, with
// that of a field.
func profilesAgree[T any](what string, annotation, f *T, path *field.Path, parts func(*T) (kind string, local *string)) field.ErrorList {
	var kind string
	var local *string
	if annotation != nil {
		kind, local = parts(annotation)
	}
	wanted, name := parts(f)
	switch {
	case kind != wanted:
		return field.ErrorList{field.Forbidden(path.Child("type"), what+" type in annotation and field must match")}
	case local != nil && (name == nil || *local != *name):
		return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), what+" profile in annotation and field must match")}
	}
	return nil
}

// annotations tells of annotations that fields have taken the place of.
func (w *warner) annotations(a map[string]string, spec *corev1.PodSpec, p *field.Path) {
	if len(a) == 0 {
		return
	}
	if _, ok := a[seccompPod]; ok && (spec.SecurityContext == nil || spec.SecurityContext.SeccompProfile == nil) {
		w.warn(p.Key(seccompPod), "%s", useSeccompField)
	}
	eachContainer(spec, func(c *corev1.Container) bool {
		if key := seccompContainerPrefix + c.Name; a[key] != "" && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil) {
			w.warn(p.Key(key), "%s", useSeccompField)
		}
		if w.path != nil && outdatedAppArmor(spec, c, a) { // of a pod's, AppArmorWarnings tells
			w.warn(p.Key(appArmorPrefix+c.Name), "%s", useAppArmorField)
		}
		return false
	})
	for key, text := range outdatedAnnotations {
		if _, ok := a[key]; ok {
			w.warn(p.Key(key), "%s", text)
		}
	}
}

var outdatedAnnotations = map[string]string{
	"scheduler.alpha.kubernetes.io/critical-pod":  `non-functional in v1.16+; use the "priorityClassName" field instead`,
	"security.alpha.kubernetes.io/sysctls":        `non-functional in v1.11+; use the "sysctls" field instead`,
	"security.alpha.kubernetes.io/unsafe-sysctls": `non-functional in v1.11+; use the "sysctls" field instead`,
}

// initContainerAnnotations carried init containers before there was a field.
var initContainerAnnotations = []string{
	"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
	"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
}

// DropInitContainerAnnotations removes the annotations in which old clients
// keep init containers, from a pod or a template.
func DropInitContainerAnnotations(annotations *map[string]string) {
	if !slices.ContainsFunc(initContainerAnnotations, func(k string) bool { _, ok := (*annotations)[k]; return ok }) {
		return
	}
	for _, k := range initContainerAnnotations {
		delete(*annotations, k)
	}
	if len(*annotations) == 0 {
		*annotations = nil
	}
}
