package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
)

// A shim rests once after it was disturbed, and never while it was disturbed
// since; a request that does not end does not keep it awake.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settled, roused := 0, 0
		r := &rest{settle: func() { settled++ }, rouse: func() { roused++ }}
		want := func(s, n int) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock() // the counts are what it guards
			defer r.mu.Unlock()
			if settled != s || roused != n {
				t.Fatalf("after %v: settled %d times and roused %d times, want %d and %d", restAfter, settled, roused, s, n)
			}
		}
		r.disturbed()
		time.Sleep(restAfter)
		want(1, 0)
		time.Sleep(24 * time.Hour)
		want(1, 0) // no timer of its own

		end := make(chan struct{})
		go r.intercept(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) { <-end; return nil, nil })
		want(1, 1)
		time.Sleep(restAfter)
		want(2, 1)
		time.Sleep(24 * time.Hour)
		want(2, 1)
		close(end) // answering is work
		want(2, 2)
		time.Sleep(restAfter)
		want(3, 2)

		for range 100 { // disturbed all the time
			r.disturbed()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		r.mu.Lock()
		if settled < 5 || settled > 7 {
			t.Errorf("a shim that is disturbed every second settled %d times in 100 s, want about 3", settled-3)
		}
		r.mu.Unlock()
		time.Sleep(restAfter)
	})
}

var _ ttrpc.UnaryServerInterceptor = (&rest{}).intercept

func TestServingPod(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		serve bool
	}{
		{"as a shim starts itself", []string{"-namespace", "k8s.io", "-id", "a", "-address", "/run/c.sock"}, true},
		{"with its debug flag", []string{"-namespace", "k8s.io", "-id", "a", "-address", "/run/c.sock", "-debug"}, true},
		{"start", []string{"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/bin/c", "-id", "a", "start"}, false},
		{"delete", []string{"-namespace", "k8s.io", "-address", "/run/c.sock", "-id", "a", "-bundle", "/run/b", "delete"}, false},
		{"info", []string{"-info"}, false},
		{"version", []string{"-v"}, false},
		{"nothing", nil, false},
		{"unknown", []string{"-namespace", "k8s.io", "-what"}, false},
	} {
		if p, got := servingPod(c.args); got != c.serve || got && (p.namespace != "k8s.io" || p.id != "a") {
			t.Errorf("%s: serves %v as %+v, want %v", c.name, got, p, c.serve)
		}
	}
}
