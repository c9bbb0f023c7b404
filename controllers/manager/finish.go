package manager

import (
	"context"
	"time"

	"github.com/coxswain/cox/client"
)

// finishTime bounds how long a write may go on after its controller was told
// to end. It is shorter than what a leader has between giving up and another
// taking over (5 s).
const finishTime = 2 * time.Second

// finishing is a door through which writes that have begun are seen through:
// one that is abandoned may still be carried out, after whoever leads next has
// looked, who would then do it a second time.
type finishing struct{ client.Interface }

// Do does not begin when ctx has ended.
func (f finishing) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	if req.Verb == client.Get || req.Verb == client.List {
		return f.Interface.Do(ctx, req)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	write, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(finishTime)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-write.Done():
		}
	})
	defer stop()
	return f.Interface.Do(write, req)
}
