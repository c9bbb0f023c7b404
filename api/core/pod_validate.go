package core

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

var specPath = field.NewPath("spec")

func validatePod(p *corev1.Pod) field.ErrorList { return validatePodWith(p, podspec.Options{}) }

func validatePodWith(p *corev1.Pod, opts podspec.Options) field.ErrorList {
	errs := podspec.ValidatePodAnnotations(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	errs = append(errs, podspec.Validate(&p.Spec, &p.ObjectMeta, specPath, opts)...)
	if opts.Old == nil {
		errs = append(errs, podspec.ProfilesAgree(p.Annotations, &p.Spec, specPath)...)
	}
	// Ephemeral containers are added through their subresource.
	if opts.Old == nil && len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	return errs
}

// updatableFields are the words of upstream's refusal.
const updatableFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks that a pod's spec changes only where it may: it is
// compared with a copy in which the changes allowed are undone.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := validateMirror(p, old)
	changed := !equal(p.Spec, old.Spec)
	if changed {
		errs = append(errs, validatePodWith(p, podspec.ForUpdate(&old.Spec))...)
	}
	const fixed = "pod updates may not add or remove containers"
	if n, o := len(p.Spec.Containers), len(old.Spec.Containers); n != o {
		return append(errs, field.Forbidden(specPath.Child("containers"), fixed))
	}
	if n, o := len(p.Spec.InitContainers), len(old.Spec.InitContainers); n != o {
		return append(errs, field.Forbidden(specPath.Child("initContainers"), fixed))
	}
	if !changed {
		return errs
	}
	for i, c := range p.Spec.Containers {
		if c.Image == "" {
			errs = append(errs, field.Required(specPath.Child("containers").Index(i).Child("image"), ""))
		}
	}
	for i, c := range p.Spec.InitContainers {
		if c.Image == "" {
			errs = append(errs, field.Required(specPath.Child("initContainers").Index(i).Child("image"), ""))
		}
	}
	errs = append(errs, validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)...)
	errs = append(errs, validateTolerationsUpdate(p.Spec.Tolerations, old.Spec.Tolerations)...)
	errs = append(errs, validateGatesUpdate(p.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	rest := p.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.Tolerations, rest.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if a, b := p.Spec.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; a != nil && b != nil && *b < 0 && *a == 1 {
		rest.TerminationGracePeriodSeconds = b
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, gatedPodUpdate(p, old, rest)...)
	}
	if !equal(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatableFields, diff.Diff(check.Shown(old.Spec), check.Shown(*rest)))))
	}
	return errs
}

// validateMirror keeps a static pod's mirror what it is.
func validateMirror(p, old *corev1.Pod) field.ErrorList {
	now, is := p.Annotations[corev1.MirrorPodAnnotationKey]
	before, was := old.Annotations[corev1.MirrorPodAnnotationKey]
	path := field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey)
	switch {
	case was && (!is || now != before):
		return field.ErrorList{field.Forbidden(path, "may not remove or update mirror pod annotation")}
	case is && !was:
		return field.ErrorList{field.Forbidden(path, "may not add mirror pod annotation")}
	}
	return nil
}

// validateDeadlineUpdate lets a deadline be set, and then only shortened.
func validateDeadlineUpdate(now, old *int64) field.ErrorList {
	path := specPath.Child("activeDeadlineSeconds")
	switch {
	case now == nil && old == nil:
	case now == nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}
	case *now < 0 || *now > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *now, validation.InclusiveRangeError(0, math.MaxInt32))}
	case old != nil && *old < *now:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}
	}
	return nil
}

// validateTolerationsUpdate lets tolerations be added, and their seconds
// changed.
func validateTolerationsUpdate(now, old []corev1.Toleration) field.ErrorList {
	for _, t := range old {
		kept := slices.ContainsFunc(now, func(n corev1.Toleration) bool {
			n.TolerationSeconds = t.TolerationSeconds
			return n == t
		})
		if !kept {
			return field.ErrorList{field.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return podspec.ValidateTolerations(now, specPath.Child("tolerations"))
}

// validateGatesUpdate lets scheduling gates only be taken away.
func validateGatesUpdate(now, old []corev1.PodSchedulingGate) field.ErrorList {
	for i, g := range now {
		if !slices.Contains(old, g) {
			return field.ErrorList{field.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))}
		}
	}
	return nil
}

// gatedPodUpdate lets the node selector and required node affinity of a pod
// that waits at its gates be narrowed (KEP 3838), and undoes that in rest.
func gatedPodUpdate(p, old *corev1.Pod, rest *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.Spec.NodeSelector {
		if now, ok := p.Spec.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(specPath.Child("nodeSelector"), p.Spec.NodeSelector, "only additions are allowed"))
			break
		}
	}
	rest.NodeSelector = old.Spec.NodeSelector
	path := specPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	now, before := requiredTerms(&p.Spec), requiredTerms(&old.Spec)
	switch {
	case len(before) == 0:
	case len(now) != len(before):
		errs = append(errs, field.Invalid(path, now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
	default:
		for i := range now {
			if !narrows(now[i].MatchExpressions, before[i].MatchExpressions) || !narrows(now[i].MatchFields, before[i].MatchFields) {
				errs = append(errs, field.Invalid(path.Index(i), now[i], "only additions are allowed (no mutations or deletions)"))
			}
		}
	}
	undoNodeAffinity(rest, &old.Spec)
	return errs
}

func requiredTerms(s *corev1.PodSpec) []corev1.NodeSelectorTerm {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// narrows says that all old requirements still stand, in their order.
func narrows(now, old []corev1.NodeSelectorRequirement) bool {
	return len(now) >= len(old) && equal(now[:len(old)], old)
}

// undoNodeAffinity gives rest the required node affinity of old and drops the
// shells that only the change had brought.
func undoNodeAffinity(rest, old *corev1.PodSpec) {
	if rest.Affinity == nil || rest.Affinity.NodeAffinity == nil {
		return
	}
	n := rest.Affinity.NodeAffinity
	n.RequiredDuringSchedulingIgnoredDuringExecution = nil
	if o := old.Affinity; o != nil && o.NodeAffinity != nil {
		n.RequiredDuringSchedulingIgnoredDuringExecution = o.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	} else if n.PreferredDuringSchedulingIgnoredDuringExecution == nil {
		rest.Affinity.NodeAffinity = nil
	}
	if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
		rest.Affinity = nil
	}
}
