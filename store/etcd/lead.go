package etcd

import (
	"context"
	"expvar"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// lead waits until the member has been elected and has applied its whole log.
// It campaigns itself instead of waiting for an election time-out.
func (s *Server) lead(ctx context.Context) error {
	id := uint64(s.etcd.MemberID())
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	giveUp := time.NewTimer(30 * time.Second)
	defer giveUp.Stop()
	var r replay
	for {
		if s.etcd.Leader() != 0 {
			look.Stop()
		} else if r.done(s, id) {
			if err := s.etcd.Process(ctx, raftpb.Message{Type: raftpb.MsgTimeoutNow, From: id, To: id}); err != nil && ctx.Err() == nil {
				return fmt.Errorf("etcd: ask for leadership: %w", err)
			}
		}
		select {
		case <-s.etcd.ReadyNotify():
			return s.failure.get()
		case <-s.failure.done:
			return s.failure.get()
		case <-ctx.Done():
			return fmt.Errorf("etcd did not become ready: %w", context.Cause(ctx))
		case <-giveUp.C:
			return s.noLeader()
		case <-look.C:
		}
	}
}

// replay watches the log being applied at a start. To campaign before raft
// itself knows that all of it is applied would not only be refused: entries
// that etcd has applied may be gone from memory already, and raft panics when
// it looks for configuration changes in them.
type replay struct {
	last  uint64
	still int // looks without progress
}

func (r *replay) done(s *Server, id uint64) bool {
	if st, ok := status(); ok && st.ID == id {
		return st.Commit > 0 && st.Applied == st.Commit
	}
	// Another member is starting in this process (a test) and etcd shows its
	// status instead: go by what the server has applied, and leave raft ample
	// time to hear of it.
	applied := s.etcd.AppliedIndex()
	if applied == 0 || applied != s.etcd.CommittedIndex() || applied != r.last {
		r.last, r.still = applied, 0
		return false
	}
	r.still++
	return r.still >= 30
}

// status is raft's own view, which etcd shows nowhere but here. It is of the
// member last made in the process.
func status() (raft.Status, bool) {
	f, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return raft.Status{}, false
	}
	st, ok := f.Value().(raft.Status)
	return st, ok
}

func (s *Server) noLeader() error {
	if n := len(s.etcd.Cluster().Members()); n > 1 {
		return fmt.Errorf("etcd data in %s belongs to a cluster of %d members and no majority of them answers: start the others, or restore a backup into an empty directory", s.etcd.Cfg.DataDir, n)
	}
	return fmt.Errorf("etcd in %s did not become leader within 30 s: is the disk overloaded?", s.etcd.Cfg.DataDir)
}
