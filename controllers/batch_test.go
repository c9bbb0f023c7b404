package controllers

import (
	"errors"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestSlowStart(t *testing.T) {
	for _, tc := range []struct{ n, failFrom, done, called int }{
		{0, 100, 0, 0}, {1, 100, 1, 1}, {10, 100, 10, 10}, {200, 1000, 200, 200},
		{500, 0, 0, 1}, {500, 1, 1, 3}, {500, 5, 5, 7},
	} {
		var called atomic.Int32
		done, err := SlowStart(tc.n, func(i int) error {
			called.Add(1)
			if i >= tc.failFrom {
				return errors.New("refused")
			}
			return nil
		})
		if done != tc.done || int(called.Load()) != tc.called || (err != nil) != (tc.failFrom < tc.n) {
			t.Errorf("%+v: %d done of %d calls, %v", tc, done, called.Load(), err)
		}
	}
}

func TestClaims(t *testing.T) {
	yes := true
	owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "me"}}
	pod := func(name, app string, by string, deleting bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}}
		if by != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: owner.UID, Controller: &yes}}
			if by != "me" {
				p.OwnerReferences[0].UID = "other"
			}
		}
		if deleting {
			p.DeletionTimestamp = &metav1.Time{}
		}
		return p
	}
	all := []*corev1.Pod{
		pod("mine", "a", "me", false), pod("lost", "b", "me", false), pod("free", "a", "", false),
		pod("free and ending", "a", "", true), pod("free, of others", "b", "", false), pod("taken", "a", "other", false),
	}
	names := func(ps []*corev1.Pod) (out string) {
		for _, p := range ps {
			out += p.Name + ";"
		}
		return out
	}
	sel := labels.SelectorFromSet(labels.Set{"app": "a"})
	c := Claims(owner, sel, all)
	if names(c.Owned) != "mine;" || names(c.Adopt) != "free;" || names(c.Release) != "lost;" {
		t.Errorf("owned %s adopt %s release %s", names(c.Owned), names(c.Adopt), names(c.Release))
	}
	owner.DeletionTimestamp = &metav1.Time{}
	c = Claims(owner, sel, all)
	if names(c.Owned) != "mine;" || len(c.Adopt)+len(c.Release) > 0 {
		t.Errorf("an owner that ends: owned %s adopt %s release %s", names(c.Owned), names(c.Adopt), names(c.Release))
	}
}
