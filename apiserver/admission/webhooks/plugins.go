package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
	patching "github.com/coxswain/cox/apiserver/patch"
)

// Mutating is the plugin MutatingAdmissionWebhook.
func (m *Manager) Mutating() admission.Plugin { return mutator{m} }

// Validating is the plugin ValidatingAdmissionWebhook.
func (m *Manager) Validating() admission.Plugin { return validator{m} }

type mutator struct{ m *Manager }

func (mutator) Name() string                                               { return "MutatingAdmissionWebhook" }
func (mutator) Handles(admission.Operation) bool                           { return true }
func (mutator) Validate(context.Context, *admission.Attributes) error      { return nil }
func (p mutator) Admit(ctx context.Context, a *admission.Attributes) error { return p.m.mutate(ctx, a) }

type validator struct{ m *Manager }

func (validator) Name() string                                       { return "ValidatingAdmissionWebhook" }
func (validator) Handles(admission.Operation) bool                   { return true }
func (validator) Admit(context.Context, *admission.Attributes) error { return nil }
func (p validator) Validate(ctx context.Context, a *admission.Attributes) error {
	return p.m.validate(ctx, a)
}

// rounds is what mutating webhooks remember between the rounds of a write.
type rounds struct {
	earlier map[string]bool // reinvocable and asked since the last change
	again   map[string]bool // to be asked again
	last    runtime.Object  // what this plugin left behind
}

// changed makes all that were asked before the change be asked again.
func (r *rounds) changed() {
	for uid := range r.earlier {
		r.again[uid] = true
	}
	clear(r.earlier)
}

func (m *Manager) mutate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	if err := m.gate.Wait(ctx, a); err != nil {
		return err
	}
	hooks := m.current(mutating)
	if len(hooks) == 0 {
		return nil
	}
	r, _ := a.Memo["MutatingAdmissionWebhook"].(*rounds)
	if r == nil {
		r = &rounds{earlier: map[string]bool{}, again: map[string]bool{}}
		a.Remember("MutatingAdmissionWebhook", r)
	}
	if a.Round > 0 && r.last != nil && !apiequality.Semantic.DeepEqual(r.last, a.Object) {
		r.changed()
	}
	w := match.New(a, m.cfg.Door, m.cfg.Served)
	asked := false
	for i, h := range hooks {
		if a.Round > 0 && !r.again[h.uid] {
			continue
		}
		seen, ok, err := m.wants(ctx, h, w)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		asked = true
		begin := time.Now()
		changed, err := m.mutateBy(ctx, h, w, seen, i)
		took := time.Since(begin)
		a.Waited += took
		m.cfg.Counts.answered(h, a.Operation, err, took)
		if err != nil {
			if err = m.passOver(ctx, h, err, a, "mutation", i); err != nil {
				return err
			}
		}
		if changed {
			r.changed()
			a.Again = true
		}
		if h.ReinvocationPolicy != nil && *h.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy {
			r.earlier[h.uid] = true
		}
	}
	if asked && a.Object != nil {
		r.last = a.Object.DeepCopyObject()
	}
	return nil
}

// passOver returns the error that a webhook which could not be asked means
// for the write: none where its policy is to ignore that.
func (m *Manager) passOver(ctx context.Context, h *hook, err error, a *admission.Attributes, phase string, index int) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	if h.ignores() {
		if ctx.Err() != nil {
			return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
		}
		m.cfg.Log.Warn("failed calling webhook; its policy is to go on", "webhook", h.Name, "error", f.err)
		a.Annotate(fmt.Sprintf("failed-open.%s.webhook.admission.k8s.io/round_%d_index_%d", phase, a.Round, index), h.Name)
		return nil
	}
	m.cfg.Log.Warn("failed calling webhook", "webhook", h.Name, "error", f.err)
	return apierrors.NewInternalError(f)
}

// answer asks a webhook and reports its warnings and annotations.
func (m *Manager) answer(ctx context.Context, h *hook, w *match.Write, rev *admissionreviewv1.AdmissionReview) (*admissionreviewv1.AdmissionResponse, error) {
	if h.err != nil {
		return nil, &failure{h.Name, fmt.Errorf("could not get REST client: %w", h.err)}
	}
	if w.DryRun {
		if s := h.SideEffects; s == nil || *s != admissionv1.SideEffectClassNone && *s != admissionv1.SideEffectClassNoneOnDryRun {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.Name))
		}
	}
	res, err := h.client.ask(ctx, rev)
	if err != nil {
		return nil, err
	}
	for k, v := range res.AuditAnnotations {
		w.Annotate(h.Name+"/"+k, v)
	}
	for _, text := range res.Warnings {
		if text != "" {
			w.Warn(text)
		}
	}
	return res, nil
}

func (h *hook) newReview(w *match.Write, seen match.Seen) (*admissionreviewv1.AdmissionReview, error) {
	version := ""
	if h.client != nil {
		version = h.client.version
	}
	return review(w, seen, version)
}

// mutateBy asks one webhook and applies its patch; it says whether that
// changed the object.
func (m *Manager) mutateBy(ctx context.Context, h *hook, w *match.Write, seen match.Seen, index int) (changed bool, err error) {
	rev, err := h.newReview(w, seen)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	asked := true
	defer func() {
		if asked {
			note, _ := json.Marshal(mutation{h.config, h.Name, changed})
			w.Annotate(fmt.Sprintf("mutation.webhook.admission.k8s.io/round_%d_index_%d", w.Round, index), string(note))
		}
	}()
	res, err := m.answer(ctx, h, w, rev)
	if err != nil {
		asked = false
		return false, err
	}
	if !res.Allowed {
		return false, refusal(h.Name, res.Result)
	}
	if len(res.Patch) == 0 {
		return false, nil
	}
	ops, err := jsonpatch.DecodePatch(res.Patch)
	if err != nil {
		return false, &failure{h.Name, fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	}
	if len(ops) == 0 {
		return false, nil
	}
	if w.Object == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.Name))
	}
	text, err := patching.Operate(ops, rev.Request.Object.Raw)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if bytes.Equal(text, rev.Request.Object.Raw) {
		return false, nil
	}
	obj := w.Empty(seen, w.Object)
	if err := json.Unmarshal(text, obj); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	before := w.Object.DeepCopyObject()
	if err := w.Replace(seen, obj); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return !apiequality.Semantic.DeepEqual(before, w.Object) && !reflect.DeepEqual(before, w.Object), nil
}

// mutation is what the audit log says of one mutating webhook.
type mutation struct {
	Configuration string `json:"configuration"`
	Webhook       string `json:"webhook"`
	Mutated       bool   `json:"mutated"`
}

// validate asks all webhooks that want to know at the same time; the first in
// order that refuses is the answer.
func (m *Manager) validate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	if err := m.gate.Wait(ctx, a); err != nil {
		return err
	}
	hooks := m.current(validating)
	if len(hooks) == 0 {
		return nil
	}
	w := match.New(a, m.cfg.Door, m.cfg.Served)
	type question struct {
		h     *hook
		rev   *admissionreviewv1.AdmissionReview
		index int
	}
	var ask []question
	for _, h := range hooks {
		seen, ok, err := m.wants(ctx, h, w)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		rev, err := h.newReview(w, seen)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		ask = append(ask, question{h, rev, len(ask)})
	}
	if len(ask) == 0 {
		return nil
	}
	w.Attributes = serialized(a)
	errs, began := make([]error, len(ask)), time.Now()
	var wg sync.WaitGroup
	for i, q := range ask {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					errs[i] = apierrors.NewInternalError(fmt.Errorf("webhook %q: panic: %v", q.h.Name, p))
				}
			}()
			begin := time.Now()
			res, err := m.answer(ctx, q.h, w, q.rev)
			if err == nil && !res.Allowed {
				err = refusal(q.h.Name, res.Result)
			}
			m.cfg.Counts.answered(q.h, a.Operation, err, time.Since(begin))
			if err != nil {
				errs[i] = m.passOver(ctx, q.h, err, w.Attributes, "validating", q.index)
			}
		})
	}
	wg.Wait()
	a.Waited += time.Since(began)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// serialized is a copy of the attributes by which several goroutines may warn
// and annotate.
func serialized(a *admission.Attributes) *admission.Attributes {
	var mu sync.Mutex
	cp := *a
	cp.Round = 0
	cp.Warn = func(text string) { mu.Lock(); defer mu.Unlock(); a.Warn(text) }
	cp.Annotate = func(k, v string) { mu.Lock(); defer mu.Unlock(); a.Annotate(k, v) }
	return &cp
}
