package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/coxswain/cox/internal/tenure"
)

// Election is how a component competes for a Lease. Components of upstream
// and of cox compete for the same ones.
type Election struct {
	Client Interface
	// Namespace and Name are the Lease's; the namespace is usually
	// kube-system.
	Namespace, Name string
	// Identity names this candidate. One that comes back under the identity
	// that holds the Lease takes over at once, so it should survive a restart
	// of the process, and must differ between machines.
	Identity string
	// The zero values are 15 s, 10 s and 5 s. RetryPeriod is also how often
	// the holder writes the Lease.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	Events                                    Recorder // may be nil
	Metrics                                   *Metrics // may be nil
	Log                                       *slog.Logger
}

// Lead runs the component whenever this candidate holds the Lease, until ctx
// ends. Losing the Lease ends run's context; when run has returned the
// candidate competes again and run is called anew: the process goes on. An
// error or return of run while it leads restarts it after a pause, the Lease
// kept. The Lease is given up when ctx ends. The error is that of a wrong
// Election, else ctx's.
func (e Election) Lead(ctx context.Context, run func(ctx context.Context) error) error {
	e.LeaseDuration = orDefault(e.LeaseDuration, 15*time.Second)
	e.RenewDeadline = orDefault(e.RenewDeadline, 10*time.Second)
	e.RetryPeriod = orDefault(e.RetryPeriod, 5*time.Second)
	e.Metrics.leads(e.Name, false)
	for ctx.Err() == nil {
		if err := e.term(ctx, run); err != nil {
			return fmt.Errorf("leader election for %s/%s: %w", e.Namespace, e.Name, err)
		}
	}
	return ctx.Err()
}

func orDefault(d, or time.Duration) time.Duration {
	if d == 0 {
		return or
	}
	return d
}

// term waits for the Lease, leads, and returns once run has.
func (e *Election) term(ctx context.Context, run func(ctx context.Context) error) error {
	// The elector outlives the component, so that the Lease stays ours until
	// the component has stopped: its context does not end with ctx.
	electorCtx := klog.NewContext(context.WithoutCancel(ctx), logr.FromSlogHandler(e.Log.Handler()))
	electorCtx, stopElector := context.WithCancel(electorCtx)
	defer stopElector()
	lock := &leaseLock{e: e, tenure: &tenure.Tenure{Length: e.LeaseDuration}}
	started, done := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: e.Name,
		LeaseDuration: e.LeaseDuration, RenewDeadline: e.RenewDeadline, RetryPeriod: e.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leadCtx context.Context) {
				close(started)
				defer close(done)
				runCtx, cancel := context.WithCancel(tenure.With(leadCtx, lock.tenure))
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				e.Metrics.leads(e.Name, true)
				e.keep(runCtx, run)
				e.Metrics.leads(e.Name, false)
				stopElector()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(id string) { e.Log.Info("leader elected", "lease", e.Name, "holder", id) },
		},
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() {
		select {
		case <-started: // the component stops first
		default:
			stopElector()
		}
	})()
	elector.Run(electorCtx)
	if !lock.acquired {
		return nil
	}
	<-done
	if ctx.Err() == nil {
		e.Log.Warn("lost the lease; competing again", "lease", e.Name)
		return nil
	}
	if err := lock.release(e.RenewDeadline); err != nil {
		e.Log.Warn("could not give up the lease", "lease", e.Name, "error", err)
	}
	return nil
}

// keep runs the component until ctx ends, whatever becomes of it.
func (e *Election) keep(ctx context.Context, run func(ctx context.Context) error) {
	for ctx.Err() == nil {
		if err := guard(ctx, run); ctx.Err() == nil {
			e.Log.Error("component ended while leading, and is started again", "lease", e.Name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func guard(ctx context.Context, run func(ctx context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(ctx)
}

// leaseLock is the lock that client-go's elector works on, over a door. The
// elector uses it from one goroutine.
type leaseLock struct {
	e        *Election
	lease    *coordinationv1.Lease // as last seen; shared, read only
	acquired bool                  // has ever been held during this term
	tenure   *tenure.Tenure        // how long it is good
	since    metav1.MicroTime      // the acquireTime of this term, once it is stored
}

func (l *leaseLock) leases() Resource[*coordinationv1.Lease] {
	return Leases.In(l.e.Client, l.e.Namespace)
}

// Get reads the Lease.
func (l *leaseLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	lease, err := l.leases().Get(ctx, l.e.Name)
	if err != nil {
		return nil, nil, err
	}
	l.lease = lease
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
	raw, err := json.Marshal(record)
	return record, raw, err
}

// Create makes the Lease.
func (l *leaseLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	lease := &coordinationv1.Lease{Spec: resourcelock.LeaderElectionRecordToLeaseSpec(&r)}
	lease.Namespace, lease.Name = l.e.Namespace, l.e.Name
	sent := time.Now()
	lease.Spec.AcquireTime = &metav1.MicroTime{Time: sent.Truncate(time.Microsecond)}
	got, err := l.leases().Create(ctx, lease)
	if err == nil {
		l.written(got, sent)
	}
	return err
}

// written notes that the Lease is stored as ours, by a request sent at that
// time. The store counts a new acquireTime as a change of hands, by which it
// tells this term's writes from those of an earlier one (see store.Store).
func (l *leaseLock) written(got *coordinationv1.Lease, sent time.Time) {
	l.lease = got
	at := metav1.MicroTime{Time: got.Spec.AcquireTime.Truncate(time.Microsecond)}
	if revision, err := strconv.ParseInt(got.ResourceVersion, 10, 64); err == nil && !at.Equal(&l.since) {
		l.tenure.Taken(tenure.Fence{Lease: l.Describe(), Revision: revision})
	}
	l.since = at
	l.tenure.Renewed(sent)
}

// Update writes the Lease if nobody else has since it was read.
func (l *leaseLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if l.lease == nil {
		return errors.New("the lease has not been read yet")
	}
	lease := l.lease.DeepCopy()
	was := lease.Spec.AcquireTime
	lease.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(&r)
	sent := time.Now()
	ours := r.HolderIdentity == l.e.Identity
	if ours {
		// A term begins anew also where the identity is that of the process
		// before this one, or somebody else has edited the Lease.
		lease.Spec.AcquireTime = &metav1.MicroTime{Time: sent.Truncate(time.Microsecond)}
		if !l.since.IsZero() && l.since.Equal(was) {
			lease.Spec.AcquireTime = was
		}
	}
	got, err := l.leases().Update(ctx, lease)
	switch {
	case err == nil && ours:
		l.written(got, sent)
	case err == nil:
		l.lease = got
	}
	return err
}

// release gives the Lease up, so that another candidate need not wait for it
// to run out.
func (l *leaseLock) release(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		r, _, err := l.Get(ctx)
		if err != nil || r.HolderIdentity != l.e.Identity {
			return err
		}
		now := metav1.Now()
		err = l.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions: r.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now,
		})
		// The last renewal, cut off by the end of its context, may still have
		// been written meanwhile.
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			return err
		}
	}
}

// RecordEvent is called by the elector, in its own goroutine, when it begins
// and when it ceases to lead.
func (l *leaseLock) RecordEvent(s string) {
	l.acquired = true
	if l.e.Events == nil || l.lease == nil {
		return
	}
	l.e.Events.Eventf(&corev1.ObjectReference{
		APIVersion: Leases.GroupVersion().String(), Kind: Leases.Kind,
		Namespace: l.e.Namespace, Name: l.e.Name, UID: l.lease.UID, ResourceVersion: l.lease.ResourceVersion,
	}, corev1.EventTypeNormal, "LeaderElection", "%s %s", l.e.Identity, s)
}

// Identity is the candidate's.
func (l *leaseLock) Identity() string { return l.e.Identity }

// Describe names the Lease.
func (l *leaseLock) Describe() string { return l.e.Namespace + "/" + l.e.Name }
