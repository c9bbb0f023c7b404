package apiserver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/apiserver/admission"
)

// The phases of admission.
const (
	admitting = iota
	validating
	phases
)

var phaseNames = [phases]string{"admit", "validate"}

// admissionChain is what runs for each operation in each phase, in order.
type admissionChain struct {
	by map[admission.Operation]*[phases][]admissionStep
}

// admissionStep is one plugin in one phase.
type admissionStep struct {
	run func(ctx context.Context, a *admission.Attributes) error
	// took counts the times at which it let requests pass, refused the others.
	took    prometheus.Observer
	refused func() prometheus.Observer
}

// phased is a plugin that knows in which of the phases it does something.
type phased interface {
	Phases() (admits, validates bool)
}

// SetAdmission replaces the admission plugins, for those that need a door and
// so can only be made once the server is.
func (s *Server) SetAdmission(plugins []admission.Plugin) {
	c := &admissionChain{by: map[admission.Operation]*[phases][]admissionStep{}}
	for _, op := range []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect} {
		c.by[op] = new([phases][]admissionStep)
		for _, p := range plugins {
			if !p.Handles(op) {
				continue
			}
			does := [phases]bool{true, true}
			if ph, ok := p.(phased); ok {
				does[admitting], does[validating] = ph.Phases()
			}
			for phase, run := range [phases]func(context.Context, *admission.Attributes) error{p.Admit, p.Validate} {
				if !does[phase] {
					continue
				}
				series := func(rejected string) prometheus.Observer {
					return s.metrics.gates.plugins.WithLabelValues(p.Name(), string(op), rejected, phaseNames[phase])
				}
				c.by[op][phase] = append(c.by[op][phase], admissionStep{
					run: run, took: series("false"), refused: func() prometheus.Observer { return series("true") },
				})
			}
		}
	}
	s.admission.Store(c)
}

// steps are those of an operation in a phase.
func (c *admissionChain) steps(op admission.Operation, phase int) []admissionStep {
	if by := c.by[op]; by != nil {
		return by[phase]
	}
	return nil
}

// runAll runs the steps until one refuses.
func runAll(ctx context.Context, steps []admissionStep, a *admission.Attributes) error {
	if len(steps) == 0 {
		return nil
	}
	last := time.Now()
	for i := range steps {
		err := steps[i].run(ctx, a)
		now := time.Now()
		took := now.Sub(last).Seconds()
		last = now
		if err != nil {
			steps[i].refused().Observe(took)
			return err
		}
		steps[i].took.Observe(took)
	}
	return nil
}
