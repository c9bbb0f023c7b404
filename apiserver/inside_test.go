package apiserver_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

// TestInside reads what is at hand without a request; all else is one.
func TestInside(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	made, err := client.ConfigMaps.In(w.local, "default").Create(ctx, configMap("default", "a", nil))
	if err != nil {
		t.Fatal(err)
	}
	// Allowed or not, nobody asks: this one sees what nobody may see.
	in := client.ConfigMaps.In(w.srv.Inside(client.User{Name: "nobody"}), "default")
	atHand := client.Options{ResourceVersion: "0"}
	// The cache follows etcd; a list that is not to be older waits for it.
	if _, _, err := client.ConfigMaps.In(w.local, "default").List(ctx, client.Options{ResourceVersion: made.ResourceVersion}); err != nil {
		t.Fatal(err)
	}
	w.events.take()
	got, err := in.Get(ctx, "a", client.WithOptions(atHand))
	if err != nil || got.UID != made.UID {
		t.Fatalf("got %v, %v", got, err)
	}
	if all, _, err := in.List(ctx, atHand); err != nil || len(all) != 1 || all[0].UID != made.UID {
		t.Fatalf("listed %v, %v, want the object alone", all, err)
	}
	if _, err := in.Get(ctx, "b", client.WithOptions(atHand)); !apierrors.IsNotFound(err) {
		t.Errorf("what is absent: %v", err)
	}
	if lines := w.events.take(); len(lines) > 0 {
		t.Errorf("recorded %q", lines)
	}
	if _, err := in.Get(ctx, "a"); !apierrors.IsForbidden(err) {
		t.Errorf("the newest state, which is a request: %v", err)
	}
	if err := in.Delete(ctx, "a", client.Options{}); !apierrors.IsForbidden(err) {
		t.Errorf("deletion: %v", err)
	}
	if lines := w.events.take(); len(lines) != 4 {
		t.Errorf("recorded %q, want two requests, received and refused", lines)
	}
}
