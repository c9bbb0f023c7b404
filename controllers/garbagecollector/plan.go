package garbagecollector

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// action is what to do about one object.
type action struct {
	kind actionKind
	// policy is how to delete.
	policy metav1.DeletionPropagation
	// refs are the owner references to keep (keepRefs, and before a deletion
	// when unblock is set).
	refs    []metav1.OwnerReference
	unblock bool
	// finalizers are those to keep (keepFinalizers).
	finalizers []string
	// wake are other objects to look at next.
	wake []types.UID
}

type actionKind int

const (
	nothing actionKind = iota
	remove
	keepRefs
	keepFinalizers
	orphan
)

// presence is what is known of an owner once it was looked for.
type presence int

const (
	present presence = iota
	absent
	unresolvable // a reference that can never name anything (KEP-2336): left alone
)

// decide says what to do about an object, given where its owners are (by
// index of s.owners).
func decide(s *situation, owners []presence) action {
	if s.node.deleting() {
		switch {
		case s.node.orphaning():
			return action{kind: orphan}
		case s.node.foreground():
			return finishForeground(s)
		}
		return action{} // on its way
	}
	var solid, dangling, waiting int
	var keep []metav1.OwnerReference
	for i, o := range s.owners {
		switch {
		case owners[i] == absent:
			dangling++
		case o.foreground:
			waiting++
		default:
			solid++
			keep = append(keep, o.ref)
		}
	}
	switch {
	case dangling+waiting == 0:
		return action{}
	case solid > 0:
		return action{kind: keepRefs, refs: keep}
	case waiting > 0 && len(s.dependents) > 0:
		a := action{kind: remove, policy: metav1.DeletePropagationForeground}
		if slices.ContainsFunc(s.dependents, func(d dependent) bool { return d.foreground() }) {
			// A circle of owners that all wait for each other: this one lets go.
			a.unblock, a.refs = true, unblocked(s.node.owners())
		}
		return a
	}
	a := action{kind: remove, policy: metav1.DeletePropagationBackground}
	for _, f := range s.node.obj.GetFinalizers() {
		switch f {
		case metav1.FinalizerOrphanDependents:
			a.policy = metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			a.policy = metav1.DeletePropagationForeground
		}
	}
	return a
}

// finishForeground lets an object go whose blocking dependents are gone, and
// otherwise looks at those that are left.
func finishForeground(s *situation) action {
	a := action{}
	blocked := false
	for _, d := range s.dependents {
		if !d.blocks {
			continue
		}
		blocked = true
		if !d.deleting() {
			a.wake = append(a.wake, d.uid)
		}
	}
	if !blocked {
		return action{kind: keepFinalizers, finalizers: without(s.node.obj.GetFinalizers(), metav1.FinalizerDeleteDependents)}
	}
	return a
}

func without(list []string, s string) []string {
	out := []string{}
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

func unblocked(refs []metav1.OwnerReference) []metav1.OwnerReference {
	no := false
	out := slices.Clone(refs)
	for i := range out {
		if out[i].BlockOwnerDeletion != nil {
			out[i].BlockOwnerDeletion = &no
		}
	}
	return out
}

// withoutOwner returns the references but those to uid.
func withoutOwner(refs []metav1.OwnerReference, uid types.UID) []metav1.OwnerReference {
	out := []metav1.OwnerReference{}
	for _, r := range refs {
		if r.UID != uid {
			out = append(out, r)
		}
	}
	return out
}
