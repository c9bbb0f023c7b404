// Package manager starts all controllers: doors, certificates and settings
// in, running loops out.
package manager

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/deployment"
	"github.com/coxswain/cox/controllers/endpoints"
	"github.com/coxswain/cox/controllers/endpointslice"
	"github.com/coxswain/cox/controllers/namespace"
	"github.com/coxswain/cox/controllers/replicaset"
	"github.com/coxswain/cox/controllers/rootca"
	"github.com/coxswain/cox/controllers/serviceaccount"
)

// Config is what the controllers need from the outside.
type Config struct {
	// ClientFor returns the door of one controller, under the identity of
	// its service account in kube-system.
	ClientFor func(serviceAccount string) client.Interface
	// Informers read for all controllers, as system:kube-controller-manager.
	// Run starts them; they end with its context.
	Informers *client.Informers
	// Discovery lists what is served, for the deletion of namespaces and the
	// garbage collector.
	Discovery controllers.Discovery
	// RootCA is the PEM bundle that verifies the API server, published in
	// every namespace; nil publishes nothing.
	RootCA []byte

	Log   *slog.Logger
	Clock clock.Clock // nil is the real one
}

// part is a controller to start: its name, the service account that it acts
// as, and how it is made. Two parts of one account share door and recorder.
type part struct {
	name, account string
	make          func(env controllers.Env) (controllers.Controller, error)
}

// as lets a constructor of a concrete controller stand in a part.
func as[C controllers.Controller](f func(controllers.Env) (C, error)) func(controllers.Env) (controllers.Controller, error) {
	return func(env controllers.Env) (controllers.Controller, error) { return f(env) }
}

func parts(cfg *Config) []part {
	out := []part{
		{"deployment", "deployment-controller", as(deployment.New)},
		{"replicaset", "replicaset-controller", as(replicaset.New)},
		{"replicationcontroller", "replication-controller", as(replicaset.NewReplication)},
		{"endpoints", "endpoint-controller", as(endpoints.New)},
		{"endpointslice", "endpointslice-controller", as(endpointslice.New)},
		{"serviceaccount", "service-account-controller", as(serviceaccount.New)},
	}
	if cfg.RootCA != nil {
		out = append(out, part{"rootca", "root-ca-cert-publisher", as(func(env controllers.Env) (*rootca.Controller, error) {
			return rootca.New(env, cfg.RootCA)
		})})
	}
	if cfg.Discovery != nil {
		out = append(out, part{"namespace", "namespace-controller", as(func(env controllers.Env) (*namespace.Controller, error) {
			return namespace.New(env, cfg.Discovery)
		})})
	}
	return out
}

// Run makes all controllers, waits until their informers have synced, and
// works until ctx ends; then it waits for what is under way. A controller
// that panics is started again after a second. The error is that of setting
// up, or ctx's.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	all := parts(&cfg)
	running := make([]controllers.Controller, len(all))
	envs := map[string]controllers.Env{}
	for i, p := range all {
		env, ok := envs[p.account]
		if !ok {
			c := cfg.ClientFor(p.account)
			env = controllers.Env{Client: c, Informers: cfg.Informers, Clock: cfg.Clock, Events: client.NewRecorder(ctx, c, p.account, "")}
			envs[p.account] = env
		}
		env.Log = cfg.Log.With("controller", p.name)
		c, err := p.make(env)
		if err != nil {
			return fmt.Errorf("controller %s: %w", p.name, err)
		}
		running[i] = c
	}
	cfg.Informers.Start(ctx)
	if !cfg.Informers.WaitForSync(ctx) {
		return context.Cause(ctx)
	}
	cfg.Log.Info("controllers run", "count", len(running))
	var wg sync.WaitGroup
	for i, c := range running {
		wg.Go(func() { keep(ctx, cfg.Log, all[i].name, c) })
	}
	wg.Wait()
	return ctx.Err()
}

// keep runs c until ctx ends, panics notwithstanding.
func keep(ctx context.Context, log *slog.Logger, name string, c controllers.Controller) {
	for ctx.Err() == nil {
		func() {
			defer func() {
				if p := recover(); p != nil {
					log.Error("controller panicked and is started again", "controller", name, "panic", p, "stack", string(debug.Stack()))
				}
			}()
			c.Run(ctx)
		}()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
