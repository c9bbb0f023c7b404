package crd

import (
	"fmt"
	"slices"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/coxswain/cox/api/apiextensions"
)

// taken are the names that the other definitions of a group hold.
type taken struct{ resources, kinds map[string]bool }

func takenBy(others []*extv1.CustomResourceDefinition) taken {
	t := taken{map[string]bool{}, map[string]bool{}}
	for _, d := range others {
		n := &d.Status.AcceptedNames
		for _, s := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			if s != "" {
				t.resources[s] = true
			}
		}
		for _, s := range []string{n.Kind, n.ListKind} {
			if s != "" {
				t.kinds[s] = true
			}
		}
	}
	return t
}

// grant decides which of the names that a definition asks for it gets, keeping
// what it has where it asks for another's. reason is "" if it gets all.
func grant(d *extv1.CustomResourceDefinition, t taken) (names extv1.CustomResourceDefinitionNames, reason, message string) {
	want, have := &d.Spec.Names, &d.Status.AcceptedNames
	names = *have.DeepCopy()
	refuse := func(r string, used ...string) {
		texts := make([]string, len(used))
		for i, u := range used {
			texts[i] = fmt.Sprintf("%q is already in use", u)
		}
		reason, message = r, strings.Join(texts, ", ")
	}
	one := func(into *string, want string, used map[string]bool, r string) {
		if used[want] {
			refuse(r, want)
			return
		}
		*into = want
	}
	one(&names.Plural, want.Plural, t.resources, "PluralConflict")
	one(&names.Singular, want.Singular, t.resources, "SingularConflict")
	var clash []string
	for _, s := range want.ShortNames {
		if t.resources[s] {
			clash = append(clash, s)
		}
	}
	if len(clash) > 0 {
		refuse("ShortNamesConflict", clash...)
	} else {
		names.ShortNames = slices.Clone(want.ShortNames)
	}
	one(&names.Kind, want.Kind, t.kinds, "KindConflict")
	one(&names.ListKind, want.ListKind, t.kinds, "ListKindConflict")
	names.Categories = slices.Clone(want.Categories)
	return names, reason, message
}

// judgeNames sets a definition's accepted names and the conditions that follow
// from them; it says whether that changed anything.
func judgeNames(d *extv1.CustomResourceDefinition, t taken) bool {
	names, reason, message := grant(d, t)
	changed := !equalNames(&names, &d.Status.AcceptedNames)
	d.Status.AcceptedNames = names
	if reason != "" {
		changed = apiextensions.SetCondition(d, extv1.NamesAccepted, extv1.ConditionFalse, reason, message) || changed
		if !apiextensions.Is(d, extv1.Established) {
			changed = apiextensions.SetCondition(d, extv1.Established, extv1.ConditionFalse, "NotAccepted", "not all names are accepted") || changed
		}
		return changed
	}
	changed = apiextensions.SetCondition(d, extv1.NamesAccepted, extv1.ConditionTrue, "NoConflicts", "no conflicts found") || changed
	if !apiextensions.Is(d, extv1.Established) {
		changed = apiextensions.SetCondition(d, extv1.Established, extv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted") || changed
	}
	return judgeApproval(d) || changed
}

func equalNames(a, b *extv1.CustomResourceDefinitionNames) bool {
	return a.Plural == b.Plural && a.Singular == b.Singular && a.Kind == b.Kind && a.ListKind == b.ListKind &&
		slices.Equal(a.ShortNames, b.ShortNames) && slices.Equal(a.Categories, b.Categories)
}

// judgeApproval shows whether a definition in a community group was approved.
func judgeApproval(d *extv1.CustomResourceDefinition) bool {
	if !apiextensions.ProtectedGroup(d.Spec.Group) {
		return false
	}
	status := extv1.ConditionFalse
	ok, reason, message := apiextensions.Approval(d.Annotations[extv1.KubeAPIApprovedAnnotation])
	if ok {
		status = extv1.ConditionTrue
	}
	return apiextensions.SetCondition(d, extv1.KubernetesAPIApprovalPolicyConformant, status, reason, message)
}
