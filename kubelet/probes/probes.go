// Package probes runs the liveness, readiness and startup probes of
// containers: probe specifications and running containers go in, results and
// their changes come out. Between two runs a probe costs one timer and no
// goroutine.
package probes

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

// Outcome is what a probe says about its container.
type Outcome int

// Unknown is the outcome before the thresholds were reached for the first
// time.
const (
	Unknown Outcome = iota
	Success
	Failure
)

// Result is the state of a container's probes. A probe that the container
// does not have stays Unknown.
type Result struct{ Startup, Live, Ready Outcome }

// Kind is the kind of a probe.
type Kind string

// The kinds, as the events spell them.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Target is a running container to probe.
type Target struct {
	Pod         *corev1.Pod
	Container   *corev1.Container
	ContainerID string
	PodIP       string
	StartedAt   time.Time
	// WasReady and WasStarted carry the API's last word about this very
	// container over a restart of the kubelet, so that a serving pod does not
	// become unready for it.
	WasReady, WasStarted bool
}

// Checker runs one check. It returns whether the container passed, what it
// said (of one that passed: what is amiss all the same), and an error when the
// check could not be made.
type Checker interface {
	Check(ctx context.Context, t *Target, p *corev1.Probe) (ok bool, output string, err error)
}

// Config is what a Manager needs.
type Config struct {
	Checker Checker
	Clock   clock.WithDelayedExecution
	Log     *slog.Logger
	// Changed is called, without locks held, when a container's Result may
	// have changed.
	Changed func(t *Target)
	// Unhealthy is called for every failed check, with what upstream's event
	// says: "Liveness probe failed: ...".
	Unhealthy func(t *Target, message string)
	// Warned is called for every check that passed and had something to say:
	// "Liveness probe warning: ...".
	Warned func(t *Target, message string)
}

// Manager holds the probes of a node's containers. It is safe for concurrent
// use.
type Manager struct {
	cfg Config
	mu  sync.Mutex
	by  map[string]*set
}

type set struct {
	t       *Target
	ctx     context.Context
	cancel  context.CancelFunc
	result  Result
	workers []*worker
}

// NewManager makes a manager without probes.
func NewManager(cfg Config) *Manager { return &Manager{cfg: cfg, by: map[string]*set{}} }

// Add begins to probe a container; a second call for the same id does
// nothing.
func (m *Manager) Add(ctx context.Context, t *Target) {
	c := t.Container
	if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by[t.ContainerID] != nil {
		return
	}
	s := &set{t: t}
	s.ctx, s.cancel = context.WithCancel(ctx)
	m.by[t.ContainerID] = s
	if c.StartupProbe != nil && !t.WasStarted {
		s.add(m, Startup, c.StartupProbe)
		return
	}
	if c.StartupProbe != nil {
		s.result.Startup = Success
	}
	m.startRest(s)
}

// startRest begins the probes that wait for the startup probe.
func (m *Manager) startRest(s *set) {
	c := s.t.Container
	if c.LivenessProbe != nil {
		s.result.Live = Success
		s.add(m, Liveness, c.LivenessProbe)
	}
	if c.ReadinessProbe != nil {
		if s.t.WasReady {
			s.result.Ready = Success
		}
		s.add(m, Readiness, c.ReadinessProbe)
	}
}

// Remove ends the probes of a container.
func (m *Manager) Remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.by[id]; s != nil {
		s.stop("")
		s.cancel()
		delete(m.by, id)
	}
}

// StopHealth ends the probes that could get a container killed, and keeps the
// readiness probe: for a container that is being stopped.
func (m *Manager) StopHealth(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.by[id]; s != nil {
		s.stop(Readiness)
	}
}

// Result returns the state of a container's probes.
func (m *Manager) Result(id string) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.by[id]; s != nil {
		return s.result
	}
	return Result{}
}

// Len is the number of containers under probes.
func (m *Manager) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.by)
}

func (s *set) add(m *Manager, kind Kind, p *corev1.Probe) {
	w := &worker{m: m, s: s, kind: kind, probe: p, begun: m.cfg.Clock.Now()}
	s.workers = append(s.workers, w)
	first := s.t.StartedAt.Add(seconds(p.InitialDelaySeconds)).Sub(w.begun)
	w.timer = m.cfg.Clock.AfterFunc(max(first, 0), w.run)
}

// stop ends all workers but those of a kind.
func (s *set) stop(but Kind) {
	kept := s.workers[:0]
	for _, w := range s.workers {
		if w.kind == but {
			kept = append(kept, w)
			continue
		}
		w.stopped = true
		w.timer.Stop()
	}
	s.workers = kept
}

// worker is one probe of one container. Its fields are guarded by the
// manager's lock.
type worker struct {
	m       *Manager
	s       *set
	kind    Kind
	probe   *corev1.Probe
	timer   clock.Timer
	stopped bool
	begun   time.Time // when the probe was first due

	counts  Counts
	last    bool // outcome of the last check
	runs    int  // how often in a row
	failing int  // checks that failed since the start without a success
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// run makes one check and arms the timer for the next.
func (w *worker) run() {
	m := w.m
	m.mu.Lock()
	if w.stopped {
		m.mu.Unlock()
		return
	}
	ctx, t := w.s.ctx, w.s.t
	m.mu.Unlock()

	begun := m.cfg.Clock.Now()
	ok, output, err := m.check(ctx, t, w.probe)

	m.mu.Lock()
	if w.stopped || ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	w.count(ok, err, m.cfg.Clock.Since(begun))
	changed := err == nil && w.record(ok)
	early := err == nil && w.early(ok)
	if !w.stopped {
		w.timer = m.cfg.Clock.AfterFunc(w.next(begun, early), w.run)
	}
	m.mu.Unlock()

	switch {
	case err != nil:
		m.cfg.Unhealthy(t, fmt.Sprintf("%s probe errored and resulted in unknown state: %v", w.kind, err))
	case ok && output != "":
		m.cfg.Warned(t, fmt.Sprintf("%s probe warning: %s", w.kind, output))
	case !ok && !early:
		m.cfg.Unhealthy(t, fmt.Sprintf("%s probe failed: %s", w.kind, output))
	}
	if changed {
		m.cfg.Changed(t)
	}
}

// Counts is how the checks of one probe of a container went.
type Counts struct {
	Pod                        *corev1.Pod
	Container                  string
	Kind                       Kind
	Succeeded, Failed, Unknown uint64
	Duration                   time.Duration // of all checks
}

func (w *worker) count(ok bool, err error, took time.Duration) {
	switch {
	case err != nil:
		w.counts.Unknown++
	case ok:
		w.counts.Succeeded++
	default:
		w.counts.Failed++
	}
	w.counts.Duration += took
}

// Counts tells how the checks of all probes went, for metrics.
func (m *Manager) Counts() []Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Counts
	for _, s := range m.by {
		for _, w := range s.workers {
			c := w.counts
			c.Pod, c.Container, c.Kind = s.t.Pod, s.t.Container.Name, w.kind
			out = append(out, c)
		}
	}
	return out
}

// check runs one check within its timeout; a panic is an error.
func (m *Manager) check(ctx context.Context, t *Target, p *corev1.Probe) (ok bool, output string, err error) {
	defer func() {
		if r := recover(); r != nil {
			m.cfg.Log.Error("a probe panicked", "container", t.Container.Name, "panic", r)
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return m.cfg.Checker.Check(ctx, t, p)
}

// record counts a check towards its threshold; true when the outcome
// changed. A startup probe that succeeds hands over to the other probes.
func (w *worker) record(ok bool) bool {
	if w.runs > 0 && w.last == ok {
		w.runs++
	} else {
		w.last, w.runs = ok, 1
	}
	if ok {
		w.failing = 0
	}
	outcome, threshold := Success, w.probe.SuccessThreshold
	if !ok {
		outcome, threshold = Failure, w.probe.FailureThreshold
	}
	if w.runs < int(max(threshold, 1)) {
		return false
	}
	r := &w.s.result
	switch w.kind {
	case Readiness:
		changed := r.Ready != outcome
		r.Ready = outcome
		return changed
	case Liveness:
		changed := r.Live != outcome
		r.Live = outcome
		if outcome == Failure {
			w.stopped = true // its container is killed now
		}
		return changed
	}
	r.Startup = outcome
	w.stopped = true
	if outcome == Success {
		w.m.startRest(w.s)
	}
	return true
}

// earlyDelay is the first pause between the checks of a readiness probe that has
// never succeeded yet: most containers are ready a moment after they start,
// and need not wait for a whole period then.
const earlyDelay = 100 * time.Millisecond

// early says that a failed readiness check belongs to the container's start
// and is repeated before the period is over. Such checks cause no event.
func (w *worker) early(ok bool) bool {
	if ok || w.kind != Readiness || w.s.result.Ready == Success || w.failing < 0 {
		w.failing = -1
		return false
	}
	if w.m.cfg.Clock.Since(w.begun) >= seconds(max(w.probe.PeriodSeconds, 1)) {
		w.failing = -1
		return false
	}
	w.failing++
	return true
}

// next is the pause before the next check.
func (w *worker) next(begun time.Time, early bool) time.Duration {
	period := seconds(max(w.probe.PeriodSeconds, 1))
	if early {
		return min(earlyDelay<<min(w.failing-1, 8), period)
	}
	return max(period-w.m.cfg.Clock.Since(begun), 0)
}
