package scheduler

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// held is what is kept for a pod between its placement and its binding.
type held struct {
	volumes []choice
	claims  *claimWrites // nil without any
}

func (h *held) any() bool { return len(h.volumes) > 0 || h.claims != nil }

// hold keeps what the pod needs on its node from others. The scheduler's lock
// is held.
func (s *Scheduler) hold(p *Pod, node *Node) (held, error) {
	var h held
	var err error
	if h.volumes, err = s.storage.reserve(p, node.Node); err != nil {
		return h, err
	}
	if h.claims, err = s.devices.reserve(p, node); err != nil {
		s.storage.release(h.volumes)
	}
	return h, err
}

// bindHeld has the pod's volumes and claims bound before it is. What of the
// claims was written is taken back if the pod cannot be.
func (s *Scheduler) bindHeld(ctx context.Context, p *Pod, node string, h held) {
	plugin, err := "VolumeBinding", error(nil)
	if len(h.volumes) > 0 {
		if err = s.storage.bind(ctx, p, node, h.volumes); err != nil {
			err = fmt.Errorf("binding volumes: %w", err)
		}
	}
	if err == nil && h.claims != nil {
		plugin, err = dynamicResources, s.devices.write(ctx, p, h.claims, s.know)
	}
	s.mu.Lock()
	s.storage.release(h.volumes)
	s.devices.settle(p, h.claims)
	s.snapshot.storage++
	s.mu.Unlock()
	if err != nil {
		if !podGone(err) && ctx.Err() == nil {
			s.cfg.Recorder.Eventf(p.Pod, corev1.EventTypeWarning, "FailedScheduling", "running PreBind plugin %q: %v", plugin, err)
		}
		s.takeBack(ctx, p, h, err)
		s.unplace(ctx, p, node, err)
		return
	}
	select {
	case s.binding <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.binding }()
	if err := s.bind(ctx, p, node); err != nil {
		s.takeBack(ctx, p, h, err)
	}
}

// know takes in a claim as it was written, before the watch has it.
func (s *Scheduler) know(c *resourcev1.ResourceClaim) {
	s.mu.Lock()
	s.devices.ledger.SetClaim(c)
	s.mu.Unlock()
}

func (s *Scheduler) takeBack(ctx context.Context, p *Pod, h held, why error) {
	if h.claims == nil || ctx.Err() != nil {
		return
	}
	if err := s.devices.undo(ctx, p, h.claims, why); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot take a pod out of its resource claims", "pod", p.Namespace+"/"+p.Name, "error", err)
	}
}

// podGone says that an attempt failed because there is no such pod. What else
// is not found, a claim or a volume, may be there at the next.
func podGone(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	of := status.Status().Details
	return of != nil && of.Kind == "pods"
}
