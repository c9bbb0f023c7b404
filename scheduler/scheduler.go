package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
)

// Config is what a scheduler needs. Client carries the identity
// system:kube-scheduler.
type Config struct {
	Client    client.Interface
	Informers *client.Informers
	Recorder  record.EventRecorder
	Log       *slog.Logger
	Clock     clock.WithTicker // nil means the real one
	// Profiles by the pods' schedulerName; nil means DefaultProfile alone.
	Profiles []*Profile
	// Counts are the scheduler's metrics; nil for none.
	Counts *Counts
	// Binders is how many bindings may be under way at once; 0 means 64.
	Binders int
}

// Scheduler places the cluster's pods. Make one with New, then Run it once.
type Scheduler struct {
	cfg      Config
	log      *slog.Logger
	clock    clock.WithTicker
	profiles map[string]*Profile
	queue    *Queue
	synced   []cache.DoneChecker
	binding  chan struct{} // a token per binding under way
	storage  *volumeBinder
	devices  *deviceClaims
	budgets  client.Informer[*policyv1.PodDisruptionBudget]

	mu       sync.Mutex // guards what follows
	snapshot *Snapshot
	classes  *classes
	// nominated are the pods that wait for room on a node, which holds their
	// place in the snapshot.
	nominated map[types.UID]string
}

// New prepares a scheduler and its informers' handlers; the caller starts the
// informers.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Profiles == nil {
		cfg.Profiles = []*Profile{DefaultProfile()}
	}
	if cfg.Binders == 0 {
		cfg.Binders = 64
	}
	s := &Scheduler{
		cfg: cfg, log: cfg.Log, clock: cfg.Clock, profiles: map[string]*Profile{}, queue: NewQueue(cfg.Clock),
		binding: make(chan struct{}, cfg.Binders), snapshot: NewSnapshot(), classes: newClasses(128),
		nominated: map[types.UID]string{},
	}
	s.queue.measures = cfg.Counts.ofScheduling()
	storage, storageSynced, err := newVolumeBinder(cfg.Client, cfg.Informers, s.storageChanged)
	if err != nil {
		return nil, err
	}
	s.storage, storage.snapshot = storage, s.snapshot
	s.devices = newDeviceClaims(cfg.Client, cfg.Clock.Now, cfg.Counts)
	devicesSynced, err := s.watchDevices(cfg.Informers)
	if err != nil {
		return nil, err
	}
	for _, p := range cfg.Profiles {
		s.profiles[p.Name] = withDevices(withVolumes(p, storage), s.devices)
	}
	pods, err := client.InformerFor(cfg.Informers, client.Pods).OnChange(s.podChanged)
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	// Terms of pod affinity select namespaces by their labels.
	namespaces, err := client.InformerFor(cfg.Informers, client.Namespaces).OnChange(func(ns, old *corev1.Namespace) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ns == nil {
			s.snapshot.RemoveNamespace(old.Name)
			return
		}
		s.snapshot.SetNamespace(ns.Name, ns.Labels)
	})
	if err != nil {
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	s.budgets = client.InformerFor(cfg.Informers, client.PodDisruptionBudgets)
	nodes, err := client.InformerFor(cfg.Informers, client.Nodes).OnChange(s.nodeChanged)
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	s.synced = append(append(storageSynced, devicesSynced...), pods.HasSyncedChecker(), namespaces.HasSyncedChecker(), nodes.HasSyncedChecker())
	return s, nil
}

// withVolumes adds the volume plugins, which need the storage's state.
func withVolumes(p *Profile, s storage) *Profile {
	out := *p
	out.Filters = append([]Filter{volumesReady{s}}, p.Filters...)
	out.Filters = append(out.Filters, volumeRestrictions{s}, volumeLimits{s}, volumeBinding{s}, volumeZone{s})
	return &out
}

func (s *Scheduler) storageChanged() {
	s.mu.Lock()
	s.snapshot.storage++
	s.mu.Unlock()
	s.queue.Happened(StorageChanged)
}

func (s *Scheduler) nodeChanged(node, old *corev1.Node) {
	s.mu.Lock()
	var ev Event
	if node == nil {
		s.snapshot.RemoveNode(old.Name)
	} else {
		ev = s.snapshot.SetNode(node)
	}
	s.mu.Unlock()
	s.queue.Happened(ev)
}

// podChanged keeps the snapshot (pods on nodes) and the queue (pods without).
func (s *Scheduler) podChanged(pod, old *corev1.Pod) {
	if pod == nil {
		s.forget(old)
		return
	}
	if old != nil && old.UID != pod.UID {
		s.forget(old)
	}
	if finished(pod) {
		s.forget(pod)
		return
	}
	if pod.Spec.NodeName != "" {
		s.queue.Done(pod.UID)
		s.mu.Lock()
		shrunk := old != nil && old.Spec.NodeName != "" && !sameRequests(old, pod)
		delete(s.nominated, pod.UID)
		if !s.snapshot.Renew(pod) {
			s.snapshot.SetPod(NewPod(pod), pod.Spec.NodeName)
		}
		s.mu.Unlock()
		if shrunk {
			s.queue.Happened(PodRemoved)
		}
		if old == nil || old.Spec.NodeName == "" {
			s.queue.Happened(PodPlaced)
		}
		return
	}
	if s.profiles[pod.Spec.SchedulerName] == nil {
		return
	}
	if pod.DeletionTimestamp != nil {
		s.queue.Remove(pod.UID)
		return
	}
	if len(pod.Spec.SchedulingGates) > 0 {
		s.queue.Gate(pod)
		return
	}
	if old != nil && onlyStatus(old, pod) {
		return
	}
	s.mu.Lock()
	missing := s.devices.missing(pod)
	s.mu.Unlock()
	if missing {
		s.queue.Hold(NewPod(pod), DevicesChanged|PodUpdated)
		return
	}
	s.queue.Add(NewPod(pod))
}

func (s *Scheduler) forget(pod *corev1.Pod) {
	s.queue.Remove(pod.UID)
	s.storage.forget(pod.UID)
	s.devices.forget(pod.UID)
	s.mu.Lock()
	delete(s.nominated, pod.UID)
	removed := s.snapshot.RemovePod(pod.UID)
	s.mu.Unlock()
	if removed {
		s.queue.Happened(PodRemoved)
	}
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// onlyStatus says that nothing which scheduling reads has changed.
func onlyStatus(old, pod *corev1.Pod) bool {
	return old.Generation == pod.Generation && pod.Generation != 0 &&
		len(old.Spec.SchedulingGates) == len(pod.Spec.SchedulingGates) &&
		resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses)
}

func sameRequests(old, pod *corev1.Pod) bool { return old.Generation == pod.Generation }

// Run schedules until ctx ends, then waits for the bindings under way.
func (s *Scheduler) Run(ctx context.Context) {
	if !client.WaitForSync(ctx, s.synced...) {
		return
	}
	defer s.cfg.Counts.ofScheduling().runs(s)()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		p := s.queue.Next(ctx)
		if p == nil {
			return
		}
		s.one(ctx, &wg, p)
	}
}

// one places a pod and binds it in the background.
func (s *Scheduler) one(ctx context.Context, wg *sync.WaitGroup, p *Pod) {
	profile, counts, begin := s.profiles[p.Spec.SchedulerName], s.cfg.Counts.ofScheduling(), s.clock.Now()
	s.mu.Lock()
	place, holds := s.nominated[p.UID]
	if holds {
		s.snapshot.RemovePod(p.UID) // it does not stand in its own way
	}
	node, diagnosis := s.classes.of(p, profile, s.snapshot).place(p, profile, s.snapshot, false)
	if node == nil && holds {
		s.snapshot.SetPod(p, place)
	}
	name := ""
	var held held
	var err error
	if node != nil {
		name = node.Name
		delete(s.nominated, p.UID)
		if held, err = s.hold(p, node); err == nil {
			s.snapshot.SetPod(p, name)
			s.snapshot.storage++ // what is reserved is no longer free
		}
	}
	s.mu.Unlock()
	counts.decided(s.clock.Since(begin))
	if node == nil {
		s.refused(ctx, wg, p, profile, diagnosis)
		result := "unschedulable"
		if diagnosis.Fault != "" {
			result = "error"
		}
		counts.attempted(profile.Name, result, s.clock.Since(begin))
		return
	}
	if err != nil { // the storage changed since the filters looked
		counts.attempted(profile.Name, "error", s.clock.Since(begin))
		s.queue.Refused(p.UID, 0)
		return
	}
	if held.any() {
		// Provisioning may take minutes: it holds no binder.
		wg.Go(func() { s.bindHeld(ctx, p, name, held) })
		return
	}
	select {
	case s.binding <- struct{}{}:
	case <-ctx.Done():
		return
	}
	wg.Go(func() {
		defer func() { <-s.binding }()
		s.bind(ctx, p, name)
	})
}

// bind writes the decision; when that fails the pod is no longer counted on
// the node and waits for its back-off.
func (s *Scheduler) bind(ctx context.Context, p *Pod, node string) error {
	// Once it is bound the queue may not know it any more.
	counts, profile, now := s.cfg.Counts.ofScheduling(), p.Spec.SchedulerName, s.clock.Now()
	attempt, began, came, known := s.queue.attempt(p.UID)
	_, err := client.Pods.In(s.cfg.Client, p.Namespace).CreateSub(ctx, p.Name, "binding", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err == nil {
		counts.point("Bind", profile, "Success", s.clock.Since(now))
		if known {
			counts.attempted(profile, "scheduled", s.clock.Since(began))
			counts.scheduled(attempt, s.clock.Since(came))
		}
		// The informer's event brings the bound pod and ends its queueing.
		s.cfg.Recorder.Eventf(p.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", p.Namespace, p.Name, node)
		return nil
	}
	if ctx.Err() == nil {
		counts.point("Bind", profile, "Error", s.clock.Since(now))
		if known {
			counts.attempted(profile, "error", s.clock.Since(began))
		}
	}
	s.unplace(ctx, p, node, err)
	return err
}

// unplace takes back a decision that could not be carried out.
func (s *Scheduler) unplace(ctx context.Context, p *Pod, node string, err error) {
	s.mu.Lock()
	if s.snapshot.where[p.UID] == node {
		s.snapshot.RemovePod(p.UID)
	}
	s.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if podGone(err) {
		s.queue.Remove(p.UID)
		return
	}
	s.log.Info("binding failed, the pod will be tried again", "pod", p.Namespace+"/"+p.Name, "node", node, "error", err)
	s.queue.Refused(p.UID, 0)
	s.queue.Happened(PodRemoved)
}

// refused reports that no node takes the pod, and lets it sleep.
func (s *Scheduler) refused(ctx context.Context, wg *sync.WaitGroup, p *Pod, profile *Profile, d *Diagnosis) {
	wakes := NodeAdded | PodUpdated
	for _, f := range profile.Filters {
		if d.Plugins[f.Name()] {
			wakes |= f.Wakes()
		}
	}
	for _, r := range profile.Relations {
		if d.Plugins[r.Name()] {
			wakes |= r.Wakes()
		}
	}
	var plan *Preemption
	why := ""
	if d.Fault == "" {
		plan, why = s.makeRoom(p, profile)
	}
	s.mu.Lock()
	free, devices := s.devices.blocked(p)
	s.mu.Unlock()
	message := d.Message()
	if why != "" {
		message += " " + devices + ", " + why
	}
	s.queue.blame(p.UID, d.Plugins)
	s.queue.Refused(p.UID, wakes|PodRemoved)
	wg.Go(func() {
		nominate := ""
		if plan != nil {
			nominate = plan.Node
		}
		s.cfg.Recorder.Event(p.Pod, corev1.EventTypeWarning, "FailedScheduling", message)
		if free != nil {
			if err := s.devices.leave(ctx, p, free, true); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot free a resource claim", "pod", p.Namespace+"/"+p.Name, "error", err)
			}
		}
		reason := corev1.PodReasonUnschedulable
		if d.Fault != "" {
			reason = corev1.PodReasonSchedulerError
		}
		if err := s.setCondition(ctx, p, reason, message, nominate); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.log.Warn("cannot report that a pod is unschedulable", "pod", p.Namespace+"/"+p.Name, "error", err)
		}
		if plan != nil {
			s.removeVictims(ctx, p, plan)
		}
	})
}

func (s *Scheduler) setCondition(ctx context.Context, p *Pod, reason, message, nominate string) error {
	now := metav1.NewTime(s.clock.Now().Truncate(time.Second))
	_, err := client.Pods.In(s.cfg.Client, p.Namespace).Mutate(ctx, p.Name, "status", func(pod *corev1.Pod) (bool, error) {
		if pod.UID != p.UID || pod.Spec.NodeName != "" {
			return false, nil
		}
		want := corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason,
			Message: message, LastTransitionTime: now, ObservedGeneration: pod.Generation,
		}
		moved := nominate != "" && pod.Status.NominatedNodeName != nominate
		if moved {
			pod.Status.NominatedNodeName = nominate
		}
		for i := range pod.Status.Conditions {
			c := &pod.Status.Conditions[i]
			if c.Type != corev1.PodScheduled {
				continue
			}
			if c.Status == want.Status && c.Reason == want.Reason && c.Message == message {
				return moved, nil
			}
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
			*c = want
			return true, nil
		}
		pod.Status.Conditions = append(pod.Status.Conditions, want)
		return true, nil
	})
	return err
}
