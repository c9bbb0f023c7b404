package controllers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/tenure"
)

// candidate competes for one lease; began gets a word whenever its component
// starts, ended whenever it stops, late what then became of a last write.
type candidate struct {
	began, ended chan string
	late         chan error
	stop         context.CancelFunc
	done         chan error
}

func (w *world) candidate(identity string, lease time.Duration) *candidate {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &candidate{began: make(chan string, 10), ended: make(chan string, 10), late: make(chan error, 10), stop: cancel, done: make(chan error, 1)}
	door := client.As(w.server.Door(), client.User{Name: "system:kube-scheduler", Groups: []string{"system:authenticated"}})
	e := client.Election{
		Client: door,
		// The role of the scheduler's own lease.
		Namespace: "kube-system", Name: "kube-scheduler", Identity: identity,
		LeaseDuration: lease, RenewDeadline: lease / 2, RetryPeriod: lease / 20, Log: w.log,
	}
	go func() {
		c.done <- e.Lead(ctx, func(ctx context.Context) error {
			event := &corev1.Event{InvolvedObject: corev1.ObjectReference{Namespace: "default"}}
			event.GenerateName = "led-"
			if _, err := client.Events.In(door, "default").Create(ctx, event.DeepCopy()); err != nil {
				w.t.Errorf("%s leads and may not write: %v", identity, err)
			}
			c.began <- identity
			<-ctx.Done()
			_, err := client.Events.In(door, "default").Create(context.WithoutCancel(ctx), event)
			c.late <- err
			c.ended <- identity
			return nil
		})
	}()
	w.t.Cleanup(cancel)
	return c
}

func (w *world) within(what string, ch <-chan string) {
	w.t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		w.t.Fatalf("waited in vain: %s", what)
	}
}

func (w *world) lease() *coordinationv1.Lease {
	w.t.Helper()
	l, err := client.Leases.In(w.root, "kube-system").Get(w.t.Context(), "kube-scheduler")
	w.must(err)
	return l
}

func TestLeaderElection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()

	// A candidate that was killed left its lease behind, good for an hour.
	// Under the same identity it need not wait for it to run out.
	hour := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-scheduler"}}
	hour.Spec = coordinationv1.LeaseSpec{HolderIdentity: ptr.To("a"), LeaseDurationSeconds: ptr.To[int32](3600), AcquireTime: ptr.To(metav1.NowMicro()), RenewTime: ptr.To(metav1.NowMicro())}
	_, err := client.Leases.In(w.root, "kube-system").Create(ctx, hour)
	w.must(err)
	a := w.candidate("a", 2*time.Second)
	w.within("a takes its lease over", a.began)
	b := w.candidate("b", 2*time.Second)

	// Someone takes the lease away: the component ends, the candidate does
	// not, and leads again once the lease is free.
	_, err = client.Leases.In(w.root, "kube-system").Mutate(ctx, "kube-scheduler", "", func(l *coordinationv1.Lease) (bool, error) {
		l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = ptr.To("thief"), ptr.To[int32](3600)
		return true, nil
	})
	w.must(err)
	w.within("a loses the lease", a.ended)
	if err := <-a.late; err == nil || !strings.Contains(err.Error(), tenure.ErrOver.Error()) {
		t.Errorf("a wrote although the lease is another's: %v", err)
	}
	select {
	case <-b.began:
		t.Fatal("b leads although the lease is held")
	case err := <-a.done:
		t.Fatalf("a gave up: %v", err)
	default:
	}
	b.stop()
	<-b.done
	_, err = client.Leases.In(w.root, "kube-system").Mutate(ctx, "kube-scheduler", "", func(l *coordinationv1.Lease) (bool, error) {
		l.Spec.HolderIdentity = ptr.To("")
		return true, nil
	})
	w.must(err)
	w.within("a leads again", a.began)

	// One that stops gives the lease up when its component has ended.
	c := w.candidate("c", 2*time.Second)
	a.stop()
	w.within("a's component ends", a.ended)
	if err := <-a.late; err != nil {
		t.Errorf("a may not write the last it has to, before it gives the lease up: %v", err)
	}
	<-a.done
	w.within("c follows", c.began)
	if h := w.lease().Spec.HolderIdentity; h == nil || *h != "c" {
		t.Errorf("the lease is held by %v", h)
	}
	c.stop()
	<-c.done
	if h := w.lease().Spec.HolderIdentity; h != nil && *h != "" {
		t.Errorf("the lease is still held by %q", *h)
	}
}

// Events of the same kind are counted up, not written anew, through a door
// with the rights of its component.
func TestRecorder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("events"), t.Context()
	r := client.NewRecorder(ctx, w.account("replicaset-controller"), "replicaset-controller", "")
	sa, err := client.ServiceAccounts.In(w.root, ns).Get(ctx, "default")
	w.must(err)
	for range 3 {
		r.Eventf(sa, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", "reason")
	}
	eventually(w, client.Events, ns, "one, counted three times", func(evs []*corev1.Event) bool {
		return len(evs) == 1 && evs[0].Count == 3 && evs[0].InvolvedObject.Kind == "ServiceAccount" && evs[0].InvolvedObject.UID == sa.UID &&
			evs[0].Source.Component == "replicaset-controller" && evs[0].Message == "Error creating: reason"
	})
}
