package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/internal/tenure"
)

// Two leaders may be at work for a moment: a process that is stopped in the
// middle of a write carries it out when it goes on, however long that took.
// Only etcd can tell that write from those of the leader that came after. So a
// Lease that changes hands changes another key with it, which renewals leave
// alone, and what a leader of this process writes depends on that key.

// fences is where these keys are, beside all objects. What follows is the
// Lease's own key.
const fences = "/cox/fences"

// changesHands reports whether next, stored over cur (nil: nothing), begins the
// term of a leader. Leases that nobody competes for, such as a node's, count no
// transitions.
func changesHands(cur *Entry, next runtime.Object) bool {
	lease, ok := next.(*coordinationv1.Lease)
	if !ok || lease.Spec.LeaseTransitions == nil {
		return false
	}
	if cur == nil {
		return true
	}
	was, ok := cur.Object.(*coordinationv1.Lease)
	return !ok || !ptr.Equal(was.Spec.HolderIdentity, lease.Spec.HolderIdentity) ||
		!ptr.Equal(was.Spec.LeaseTransitions, lease.Spec.LeaseTransitions) ||
		!micro(was.Spec.AcquireTime).Equal(micro(lease.Spec.AcquireTime))
}

// micro is t as it is stored.
func micro(t *metav1.MicroTime) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Truncate(time.Microsecond)
}

// handOver is swap for a Lease that changes hands, at the full key.
func (s *Store) handOver(ctx context.Context, key string, revision int64, w *write, f fence) (at int64, done bool, err error) {
	resp, err := s.cfg.Backend.Txn(ctx).
		If(append(f.holds(), clientv3.Compare(clientv3.ModRevision(key), "=", revision))...).
		Then(clientv3.OpPut(key, string(w.stored)), clientv3.OpPut(fences+key, "")).
		Commit()
	if err != nil {
		return 0, false, err
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// fence is what a leader's writes depend on. The zero value is that of
// somebody who competes with nobody.
type fence struct {
	s        *Store
	key      string
	revision int64 // of the key, in the leader's term
}

func (s *Store) fence(ctx context.Context) fence {
	b := tenure.Behind(ctx)
	if b == nil {
		return fence{}
	}
	return fence{s, fences + s.root + "leases/" + b.Lease, b.Revision}
}

// holds are the conditions of a write.
func (f fence) holds() []clientv3.Cmp {
	if f.s == nil {
		return nil
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(f.key), "=", f.revision)}
}

// check says, after a write that was not carried out, whether that was because
// the Lease has changed hands: it is tenure.ErrOver then.
func (f fence) check(ctx context.Context) error {
	if f.s == nil {
		return nil
	}
	resp, err := f.s.cfg.Backend.Get(ctx, f.key, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == f.revision {
		return nil
	}
	return tenure.ErrOver
}
