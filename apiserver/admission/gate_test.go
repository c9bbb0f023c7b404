package admission

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A write that was refused because too little has been read is told apart, by
// those who make it, from one that is refused.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		a := &Attributes{Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Name: "p"}
		err := g.Wait(context.Background(), a)
		if !NotReady(fmt.Errorf("begin: %w", err)) {
			t.Errorf("a gate that is shut says %v", err)
		}
		g.Open()
		if err := g.Wait(context.Background(), a); err != nil || NotReady(err) {
			t.Errorf("an open gate says %v", err)
		}
		if NotReady(apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, errors.New("no"))) {
			t.Error("every refusal passes for one of a gate")
		}
	})
}
