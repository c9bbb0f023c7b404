// Package namespace empties namespaces that are being deleted: a namespace
// and what is left in it in; deletions, conditions that name what blocks, and
// finally the namespace's own release out.
package namespace

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/controllers"
)

// Left is what is left of one resource in the namespace.
type Left struct {
	schema.GroupVersionResource
	Count int
	// Finalizers counts the objects by the finalizers that hold them.
	Finalizers map[string]int
}

// Report is the outcome of one attempt to empty a namespace.
type Report struct {
	// Discovery is the error of finding out what there is, if any.
	Discovery error
	// Failures are errors of deleting content.
	Failures []error
	Left     []Left
}

// Done says that nothing is left, for sure.
func (r *Report) Done() bool { return r.Discovery == nil && len(r.Failures) == 0 && len(r.Left) == 0 }

// phase orders the deletion: pods go first and alone, so that nothing that
// guards or serves them (network policies, secrets) goes while they run
// (KEP-5080).
func phase(all []controllers.Resource) (pods, rest []controllers.Resource) {
	for _, r := range all {
		switch {
		case !r.Namespaced || !r.Can("list", "delete"):
		case isPods(r.GroupResource()):
			pods = append(pods, r)
		default:
			rest = append(rest, r)
		}
	}
	return pods, rest
}

func isPods(gr schema.GroupResource) bool { return gr == schema.GroupResource{Resource: "pods"} }

// hasFinalizer says that this controller has not released the namespace yet.
func hasFinalizer(n *corev1.Namespace) bool {
	return slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes)
}

// Conditions returns the namespace's conditions after an attempt.
func Conditions(old []corev1.NamespaceCondition, r *Report, now metav1.Time) []corev1.NamespaceCondition {
	out := slices.Clone(old)
	set := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, reason, message string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		i := slices.IndexFunc(out, func(x corev1.NamespaceCondition) bool { return x.Type == t })
		if i < 0 {
			out = append(out, c)
			return
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, r.Discovery != nil, "DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups: %v", r.Discovery),
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(r.Failures) > 0, "ContentDeletionFailed", failures(r.Failures),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(r.Left) > 0, "SomeResourcesRemain", "Some resources are remaining: "+remaining(r.Left),
		"ContentRemoved", "All content successfully removed")
	held := finalizers(r.Left)
	set(corev1.NamespaceFinalizersRemaining, held != "", "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+held,
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return out
}

func failures(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	slices.Sort(texts)
	return fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(errs), strings.Join(texts, ", "))
}

func remaining(left []Left) string {
	var out []string
	for _, l := range left {
		out = append(out, fmt.Sprintf("%s.%s has %d resource instances", l.Resource, l.Group, l.Count))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func finalizers(left []Left) string {
	counts := map[string]int{}
	for _, l := range left {
		for f, n := range l.Finalizers {
			counts[f] += n
		}
	}
	var out []string
	for f, n := range counts {
		out = append(out, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
