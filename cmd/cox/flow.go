package main

import (
	"context"
	"maps"
	"net/http"

	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/internal/component"
)

// flowControl makes priority and fairness, and adds its pages for people to
// paths; nil if it is switched off.
func (cp *controlPlane) flowControl(paths map[string]http.Handler) *flow.Controller {
	if !cp.cfg.Fairness {
		return nil
	}
	cp.flow = flow.New(flow.Config{
		Door: cp.root, Seats: cp.cfg.MaxReads + cp.cfg.MaxWrites, Log: cp.log.With("component", "flow"),
	})
	cp.closers = append(cp.closers, cp.flow.Close)
	maps.Copy(paths, cp.flow.Handlers())
	return cp.flow
}

// followFlow lets flow control follow the cluster's configuration.
func (cp *controlPlane) followFlow(group *component.Group) {
	if cp.flow == nil {
		return
	}
	cp.server.Metrics().MustRegister(cp.flow.Collectors()...)
	synced := cp.server.PostStart("priority-and-fairness-config-consumer", "priority-and-fairness-config-producer")
	group.Go("flow", func(ctx context.Context) error { return cp.flow.Run(ctx, synced) })
}
