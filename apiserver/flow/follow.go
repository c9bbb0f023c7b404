package flow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

// again is how long a failed write waits before it is tried anew.
const again = 5 * time.Second

// Run follows the cluster's configuration and keeps the default objects and
// the schemas' status until ctx ends. synced (may be nil) is called once the
// configuration has been read and the default objects are there.
func (c *Controller) Run(ctx context.Context, synced func()) error {
	informers := client.NewInformers(c.cfg.Door)
	levels, schemas := client.InformerFor(informers, Levels), client.InformerFor(informers, Schemas)
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if _, err := levels.OnChange(func(_, _ *flowcontrolv1.PriorityLevelConfiguration) { poke() }); err != nil {
		return fmt.Errorf("follow priority levels: %w", err)
	}
	if _, err := schemas.OnChange(func(_, _ *flowcontrolv1.FlowSchema) { poke() }); err != nil {
		return fmt.Errorf("follow flow schemas: %w", err)
	}
	informers.Start(ctx)
	if !informers.WaitForSync(ctx) {
		return ctx.Err()
	}
	poke()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		l, s := levels.List("", nil), schemas.List("", nil)
		c.load(l, s)
		wl, ws := plan(l, s)
		if err := errors.Join(apply(ctx, c.cfg.Door, Levels, wl), apply(ctx, c.cfg.Door, Schemas, ws)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.cfg.Log.Warn("default flow schemas and priority levels are not kept", "error", err)
			time.AfterFunc(again, poke)
			continue
		}
		if synced != nil {
			synced()
			synced = nil
		}
	}
}

// The managers whose fields the default objects and the schemas' conditions are.
const (
	producer = "api-priority-and-fairness-config-producer-v1"
	consumer = "api-priority-and-fairness-config-consumer-v1"
)

// apply makes the writes side by side. That another server or a user was first
// is no error: the change comes in and is looked at then.
func apply[T client.Object](ctx context.Context, door client.Interface, k client.Kind[T], w writes[T]) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	do := func(verb, name string, f func() error) {
		wg.Go(func() {
			err := f()
			if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("%s %s %s: %w", verb, k.Kind, name, err))
		})
	}
	in, as := k.In(door, ""), client.WithOptions(client.Options{FieldManager: producer})
	for _, o := range w.create {
		do("create", o.GetName(), func() error { _, err := in.Create(ctx, o, as); return err })
	}
	for _, o := range w.update {
		do("update", o.GetName(), func() error { _, err := in.Update(ctx, o, as); return err })
	}
	for _, c := range w.status {
		do("apply the status of", c.name, func() error {
			_, err := in.ApplyStatus(ctx, c.name, consumer, flowcontrolv1.FlowSchemaStatus{Conditions: []flowcontrolv1.FlowSchemaCondition{c.FlowSchemaCondition}})
			return err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
