package main

import (
	"context"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// tasks serves containerd's task API and ends the shim with its last
// container. containerd itself asks for that only when it deletes the sandbox's
// own container, and in vain while others are left: so a shim whose sandbox
// died first would run for ever.
type tasks struct {
	taskapi.TTRPCTaskService
	end func()

	mu   sync.Mutex
	here map[string]bool // the containers, by ID
	// making is how many are being made; lonely ends a shim that has none and
	// makes none: who started it was cut off before its first container, or
	// while that was made, and nobody knows of it any more.
	making int
	lonely *time.Timer
	// refused says that the shim was asked to end while containers were left.
	refused bool
}

// newTasks serves inner's containers, and calls end when the shim is to end.
func newTasks(inner taskapi.TTRPCTaskService, end func()) *tasks {
	t := &tasks{TTRPCTaskService: inner, end: end}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	return t
}

// RegisterTTRPC serves the tasks.
func (t *tasks) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, t)
	return nil
}

// Create makes a container.
func (t *tasks) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := note(r.ID); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.making++
	t.settle()
	t.mu.Unlock()
	res, err := t.TTRPCTaskService.Create(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.settle()
	t.making--
	if err == nil {
		if t.here == nil {
			t.here = map[string]bool{}
		}
		t.here[r.ID] = true
	}
	return res, err
}

// loneliness is how long a shim waits for a container: far longer than a busy
// node takes to ask for one.
const loneliness = 30 * time.Second

// settle begins, or ends, the wait for a container. Call with the lock held.
func (t *tasks) settle() {
	if t.lonely != nil {
		t.lonely.Stop()
		t.lonely = nil
	}
	if len(t.here) > 0 || t.making > 0 {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(loneliness, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.lonely == timer { // and not stopped just now
			t.end()
		}
	})
	t.lonely = timer
}

// answerTime is what the answer to the last request gets to leave.
const answerTime = 100 * time.Millisecond

// Delete deletes a container, or a further process of one.
func (t *tasks) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	res, err := t.TTRPCTaskService.Delete(ctx, r)
	if err == nil && r.ExecID == "" {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.here, r.ID)
		t.settle()
		if t.refused && len(t.here) == 0 {
			time.AfterFunc(answerTime, t.end)
		}
	}
	return res, err
}

// Shutdown ends the shim unless containers are left; then the deletion of the
// last one does.
func (t *tasks) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	t.refused = len(t.here) > 0
	t.mu.Unlock()
	return t.TTRPCTaskService.Shutdown(ctx, r)
}
