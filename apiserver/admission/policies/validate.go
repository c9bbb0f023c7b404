package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
)

// Validating is the plugin ValidatingAdmissionPolicy.
func (m *Manager) Validating() admission.Plugin { return validator{m} }

type validator struct{ m *Manager }

func (validator) Name() string                                       { return "ValidatingAdmissionPolicy" }
func (validator) Handles(admission.Operation) bool                   { return true }
func (validator) Admit(context.Context, *admission.Attributes) error { return nil }
func (p validator) Validate(ctx context.Context, a *admission.Attributes) error {
	return p.m.validate(ctx, a)
}

// denial is one no of a policy.
type denial struct {
	p       *policy
	b       *binding // nil if the policy itself is at fault
	message string
	reason  metav1.StatusReason
	index   int
}

func (d *denial) where() string {
	if d.b == nil {
		return fmt.Sprintf("ValidatingAdmissionPolicy '%s'", d.p.name)
	}
	return fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s'", d.p.name, d.b.name)
}

// verdict gathers what the policies say about a write.
type verdict struct {
	a       *admission.Attributes
	denials []*denial
	audited []audited
	notes   map[string][]string
}

// audited is a failure as the audit log has it.
type audited struct {
	Message           string                         `json:"message"`
	Policy            string                         `json:"policy"`
	Binding           string                         `json:"binding"`
	ExpressionIndex   int                            `json:"expressionIndex"`
	ValidationActions []admissionv1.ValidationAction `json:"validationActions"`
}

func (m *Manager) validate(ctx context.Context, a *admission.Attributes) error {
	if unasked(a) {
		return nil
	}
	if err := m.gate.Wait(ctx, a); err != nil {
		return err
	}
	policies := m.bound(validating)
	if len(policies) == 0 {
		return nil
	}
	w := match.New(a, m.cfg.Door, m.cfg.Served)
	v := &verdict{a: a, notes: map[string][]string{}}
	for _, p := range policies {
		m.ask(ctx, p, w, v)
	}
	return v.end()
}

// broken notes a policy that cannot be carried out.
func (v *verdict) broken(p *policy, b *binding, err error) {
	if p.ignores {
		return
	}
	what := "policy"
	if b != nil {
		what = "binding"
	}
	v.denials = append(v.denials, &denial{p: p, b: b, message: fmt.Sprintf("failed to configure %s: %v", what, err)})
}

func (m *Manager) ask(ctx context.Context, p *policy, w *match.Write, v *verdict) {
	if p.constraints == nil && p.err != nil {
		v.broken(p, nil, p.err)
		return
	}
	seen, ok, err := p.constraints.match(ctx, w)
	switch {
	case err != nil:
		v.broken(p, nil, err)
		return
	case !ok:
		return
	}
	if err := m.fault(p); err != nil {
		v.broken(p, nil, err)
		return
	}
	var values map[string]any
	for _, b := range p.bindings {
		if b.err != nil {
			v.broken(p, b, b.err)
			continue
		}
		if _, ok, err := b.constraints.match(ctx, w); err != nil || !ok {
			if err != nil {
				v.broken(p, b, err)
			}
			continue
		}
		params, err := m.params(ctx, p, b, w)
		if err != nil {
			v.broken(p, b, err)
			continue
		}
		if values == nil && len(params) > 0 {
			if values, err = w.Values(ctx, seen, m.cfg.Authz, true); err != nil {
				v.broken(p, nil, err)
				return
			}
		}
		for _, param := range params {
			m.run(ctx, p, b, values, param, v)
		}
	}
}

// run evaluates a policy with one parameter.
func (m *Manager) run(ctx context.Context, p *policy, b *binding, values map[string]any, param any, v *verdict) {
	e := p.begin(ctx, values, param)
	if !p.conditions.Empty() {
		ok, err := p.conditions.Match(ctx, e.values)
		if err != nil {
			if !p.ignores {
				v.deny(&denial{p: p, b: b, message: err.Error()})
			}
			return
		}
		if !ok {
			return
		}
	}
	for i, c := range p.validations {
		begin := time.Now()
		out, err := e.eval(c.check)
		took := time.Since(begin)
		switch {
		case err != nil:
			if p.ignores {
				break
			}
			m.cfg.Counts.denied(p, b, err, took)
			text := fmt.Sprintf("expression '%v' resulted in error: %v", c.check.Source, err)
			if errors.Is(err, expression.ErrBudget) {
				text = err.Error()
			}
			v.deny(&denial{p: p, b: b, index: i, message: text})
			if errors.Is(err, expression.ErrBudget) {
				return
			}
		case out != types.True:
			m.cfg.Counts.denied(p, b, nil, took)
			v.deny(&denial{p: p, b: b, index: i, reason: c.reason, message: e.message(&c)})
		}
	}
	for _, a := range p.annotations {
		v.note(p, b, a, e)
	}
}

// message is what a failed validation tells the user.
func (e *evaluation) message(c *validation) string {
	if c.message != nil {
		if out, err := e.eval(c.message); err == nil {
			text, ok := out.Value().(string)
			if trimmed := strings.TrimSpace(text); ok && trimmed != "" && !strings.ContainsAny(trimmed, "\n\r") &&
				len(trimmed) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes {
				return trimmed
			}
		}
	}
	if text := strings.TrimSpace(c.text); text != "" {
		return text
	}
	return "failed expression: " + strings.TrimSpace(c.check.Source)
}

// deny carries out a no as the binding says.
func (v *verdict) deny(d *denial) {
	for _, action := range d.b.actions {
		switch action {
		case admissionv1.Deny:
			v.denials = append(v.denials, d)
		case admissionv1.Warn:
			v.a.Warn(fmt.Sprintf("Validation failed for %s: %s", d.where(), d.message))
		case admissionv1.Audit:
			v.audited = append(v.audited, audited{d.message, d.p.name, d.b.name, d.index, d.b.actions})
		}
	}
}

// note evaluates an audit annotation.
func (v *verdict) note(p *policy, b *binding, a annotation, e *evaluation) {
	out, err := e.eval(a.prg)
	if err != nil {
		if !p.ignores {
			// Whatever the binding's actions are: nothing was found wrong, so there
			// is nothing to warn of.
			v.denials = append(v.denials, &denial{p: p, b: b, message: fmt.Sprintf("expression '%v' resulted in error: %v", a.prg.Source, err)})
		}
		return
	}
	text, ok := out.Value().(string)
	if text = strings.TrimSpace(text); !ok || text == "" {
		return
	}
	if len(text) > 10*1024 {
		text = text[:10*1024]
	}
	key := p.name + "/" + a.key
	if !slices.Contains(v.notes[key], text) {
		v.notes[key] = append(v.notes[key], text)
	}
}

// end writes the annotations and makes the refusal of the first denial.
func (v *verdict) end() error {
	for key, values := range v.notes {
		v.a.Annotate(key, strings.Join(values, ", "))
	}
	if len(v.audited) > 0 {
		if text, err := json.Marshal(v.audited); err == nil {
			v.a.Annotate("validation.policy.admission.k8s.io/validation_failure", string(text))
		}
	}
	if len(v.denials) == 0 {
		return nil
	}
	d := v.denials[0]
	return refusal(v.a, d.where()+" denied request: "+d.message, d.reason)
}

// codes are the HTTP statuses of the reasons that a policy may give.
var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonUnauthorized: http.StatusUnauthorized, metav1.StatusReasonForbidden: http.StatusForbidden,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge, metav1.StatusReasonInvalid: http.StatusUnprocessableEntity,
}

// refusal is the Status of a policy's no.
func refusal(a *admission.Attributes, message string, reason metav1.StatusReason) error {
	err := apierrors.NewForbidden(a.Resource.GroupResource(), a.ShownName(), errors.New(message))
	if reason == "" {
		reason = metav1.StatusReasonInvalid
	}
	err.ErrStatus.Reason, err.ErrStatus.Code = reason, codes[reason]
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	return err
}
