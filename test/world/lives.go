package world

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
)

// Run runs controllers, by upstream's names, until the function that it
// returns is called; that one waits for their end. crash ends them at once,
// with what is under way; otherwise they finish what they have begun.
func (w *World) Run(names ...string) (end func(crash bool)) {
	return w.RunAs(manager.Config{Controllers: names})
}

// RunAs is Run with settings; doors, informers and the log are the world's.
func (w *World) RunAs(cfg manager.Config) (end func(crash bool)) {
	ctx, cancel := context.WithCancel(w.T.Context())
	cutting, cut := context.WithCancel(context.Background())
	door := func(user client.User) client.Interface {
		return faulty{named{client.As(w.server.Door(), user), user.Name}, w.faults, cutting}
	}
	cfg.ClientFor = func(account string) client.Interface {
		return door(client.ServiceAccountUser("kube-system", account))
	}
	cfg.Informers = client.NewInformers(door(client.User{Name: "system:kube-controller-manager", Groups: []string{"system:authenticated"}}))
	cfg.Discovery, cfg.Log, cfg.CleanPodRequests = w.discovery, w.Log, true
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := manager.Run(ctx, cfg); err != nil && ctx.Err() == nil {
			w.T.Errorf("controllers: %v", err)
		}
	}()
	return func(crash bool) {
		if crash {
			cut()
		}
		cancel()
		<-done
		cut()
	}
}

// Lives runs controllers over and over, each time for about as long as life,
// and ends half of those lives with a crash, until the function that it
// returns is called, which leaves one last life running.
func (w *World) Lives(life time.Duration, names ...string) (last func()) {
	rnd := rand.New(rand.NewPCG(w.Seed, 3))
	ctx, cancel := context.WithCancel(w.T.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			end := w.Run(names...)
			t := time.NewTimer(time.Duration(rnd.ExpFloat64() * float64(life)))
			select {
			case <-t.C:
				end(rnd.IntN(2) == 0)
				continue
			case <-ctx.Done():
			}
			t.Stop()
			w.T.Cleanup(func() { end(false) })
			return
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
