package kubelet

import (
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signals of eviction, as the documentation "Node-pressure Eviction" names
// them.
const (
	SignalMemory            = "memory.available"
	SignalAllocatableMemory = "allocatableMemory.available"
	SignalNodeFS            = "nodefs.available"
	SignalNodeInodes        = "nodefs.inodesFree"
	SignalImageFS           = "imagefs.available"
	SignalImageInodes       = "imagefs.inodesFree"
	SignalContainerFS       = "containerfs.available"
	SignalContainerInodes   = "containerfs.inodesFree"
	SignalPIDs              = "pid.available"
)

// Amount is a number of bytes, inodes or process ids, or a share (0 to 1) of
// all that there are.
type Amount struct {
	Quantity int64
	Share    float64
}

// of resolves a share.
func (a Amount) of(capacity int64) int64 {
	if a.Share > 0 {
		return int64(math.Ceil(float64(capacity) * a.Share))
	}
	return a.Quantity
}

// Threshold is a limit below which a node evicts pods.
type Threshold struct {
	Signal string
	Limit  Amount
	// Grace is how long the node must have been short before pods are
	// evicted, in peace then; 0 evicts at once (hard eviction).
	Grace time.Duration
	// Reclaim is how much more than the limit is freed once it was passed.
	Reclaim Amount
}

// Eviction is when and how a node short of something ends pods
// (documentation "Node-pressure Eviction").
type Eviction struct {
	// Thresholds; nil stands for DefaultThresholds.
	Thresholds []Threshold
	// Transition is how long a condition stays after the pressure has gone;
	// default 5 minutes.
	Transition time.Duration
	// MaxPodGrace bounds the grace period of pods evicted by a soft threshold;
	// 0 ends them at once.
	MaxPodGrace time.Duration
}

// DefaultThresholds are those of upstream on Linux: 100 MiB of memory, 10 % of
// the node's file system, 15 % of that of the images, 5 % of inodes.
func DefaultThresholds() []Threshold {
	return []Threshold{
		{Signal: SignalMemory, Limit: Amount{Quantity: 100 << 20}},
		{Signal: SignalNodeFS, Limit: Amount{Share: 0.10}},
		{Signal: SignalNodeInodes, Limit: Amount{Share: 0.05}},
		{Signal: SignalImageFS, Limit: Amount{Share: 0.15}},
		{Signal: SignalImageInodes, Limit: Amount{Share: 0.05}},
	}
}

func (e *Eviction) setDefaults() {
	if e.Thresholds == nil {
		e.Thresholds = DefaultThresholds()
	}
	setDefault(&e.Transition, 5*time.Minute)
}

// hard returns the hard limit of a signal, resolved.
func (e *Eviction) hard(name string, capacity int64) int64 {
	for _, t := range e.Thresholds {
		if t.Signal == name && t.Grace == 0 {
			return t.Limit.of(capacity)
		}
	}
	return 0
}

const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePIDs   corev1.ResourceName = "pids"
)

// signalKind is the resource as messages name it, and the condition that the
// node shows while it is short of it. The order is that of eviction.
type signalKind struct {
	name      string
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
}

var signalKinds = []signalKind{
	{SignalAllocatableMemory, corev1.ResourceMemory, corev1.NodeMemoryPressure},
	{SignalMemory, corev1.ResourceMemory, corev1.NodeMemoryPressure},
	{SignalNodeFS, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	{SignalNodeInodes, resourceInodes, corev1.NodeDiskPressure},
	{SignalImageFS, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	{SignalImageInodes, resourceInodes, corev1.NodeDiskPressure},
	{SignalContainerFS, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	{SignalContainerInodes, resourceInodes, corev1.NodeDiskPressure},
	{SignalPIDs, resourcePIDs, corev1.NodePIDPressure},
}

// KnownSignal says that a threshold can be set on a signal.
func KnownSignal(name string) error {
	for _, s := range signalKinds {
		if s.name == name {
			return nil
		}
	}
	return fmt.Errorf("unknown eviction signal %q", name)
}

// measured is what there is of something, and how much of it is left.
type measured struct{ available, capacity int64 }

// signal is something that the node is short of: what is left is less than the
// limit of a threshold.
type signal struct {
	signalKind
	threshold        Threshold
	Available, Limit int64
}

func (s signal) quantity(n int64) string {
	if s.resource == resourceInodes || s.resource == resourcePIDs {
		return resource.NewQuantity(n, resource.DecimalSI).String()
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

// watched is what is remembered of a threshold that the node has passed.
type watched struct{ since time.Time }

// shortages holds what was measured against the thresholds: which are passed
// at now, in the order of signalKinds, and which of these are to be acted on.
// seen is kept between calls: a threshold once passed stays so until its
// minimum reclaim is free too. It is a pure function but for seen.
func (e *Eviction) shortages(have map[string]measured, seen map[int]watched, now time.Time) (passed, due []signal) {
	for _, kind := range signalKinds {
		for i, t := range e.Thresholds {
			m, ok := have[t.Signal]
			if t.Signal != kind.name || !ok {
				continue
			}
			limit := t.Limit.of(m.capacity)
			w, was := seen[i]
			bar := limit
			if was {
				bar += t.Reclaim.of(m.capacity)
			}
			if m.available >= bar {
				delete(seen, i)
				continue
			}
			if !was {
				w = watched{now}
				seen[i] = w
			}
			s := signal{kind, t, m.available, limit}
			passed = append(passed, s)
			if now.Sub(w.since) >= t.Grace {
				due = append(due, s)
			}
		}
	}
	return passed, due
}

// measureNode measures what thresholds are set on. imageFS is a folder on the
// runtime's file system, "" if unknown.
func (k *Kubelet) measureNode(imageFS string) map[string]measured {
	out := map[string]measured{}
	wanted := map[string]bool{}
	for _, t := range k.cfg.Eviction.Thresholds {
		wanted[t.Signal] = true
	}
	mem := memInfo()
	if avail, ok := mem["MemAvailable"]; ok {
		out[SignalMemory] = measured{avail, mem["MemTotal"]}
	}
	if wanted[SignalAllocatableMemory] {
		if used, err := k.cgroups.WorkingSet(); err == nil {
			a := k.allocatable()
			most := a.Memory().Value()
			out[SignalAllocatableMemory] = measured{most - int64(used), most}
		}
	}
	measureDisk(out, k.cfg.RootDir, SignalNodeFS, SignalNodeInodes)
	if imageFS != "" {
		measureDisk(out, imageFS, SignalImageFS, SignalImageInodes)
		measureDisk(out, imageFS, SignalContainerFS, SignalContainerInodes)
	}
	if wanted[SignalPIDs] {
		if m, ok := measurePIDs(); ok {
			out[SignalPIDs] = m
		}
	}
	return out
}

func measureDisk(out map[string]measured, path, bytes, inodes string) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil || st.Blocks == 0 {
		return
	}
	size := uint64(st.Bsize)
	out[bytes] = measured{int64(st.Bavail * size), int64(st.Blocks * size)}
	if st.Files > 0 {
		out[inodes] = measured{int64(st.Ffree), int64(st.Files)}
	}
}

// measurePIDs is how many processes the kernel still allows.
func measurePIDs() (measured, bool) {
	most, err := parseInt(firstLine("/proc/sys/kernel/pid_max"))
	if n, e := parseInt(firstLine("/proc/sys/kernel/threads-max")); e == nil {
		most = min(most, n)
	}
	if err != nil {
		return measured{}, false
	}
	// "0.00 0.01 0.05 2/345 6789": running and all tasks.
	w := strings.Fields(firstLine("/proc/loadavg"))
	if len(w) < 4 {
		return measured{}, false
	}
	_, all, _ := strings.Cut(w[3], "/")
	n, err := parseInt(all)
	return measured{most - n, most}, err == nil
}
