package kubelet

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
	"github.com/coxswain/cox/kubelet/probes"
)

// ContainerRef is a container as the HTTPS API needs it.
type ContainerRef struct {
	ID string
	// Log is the path of its log; PodLogDir the folder of all logs of the pod.
	Log, PodLogDir string
	Running        bool
	Attempt        int
	Spec           *corev1.Container
}

// PodList returns the pods of the node with their newest statuses, static pods
// included. They are read only.
func (k *Kubelet) PodList() []*corev1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*corev1.Pod, 0, len(k.workers))
	for _, w := range k.workers {
		w.mu.Lock()
		if !w.done {
			out = append(out, w.state.Pod)
		}
		w.mu.Unlock()
	}
	return out
}

// find returns the worker of a pod by name, which for static pods ends in the
// node's. uid may be "" for any.
func (k *Kubelet) find(namespace, name, uid string) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	var hit *worker
	for _, w := range k.workers {
		w.mu.Lock()
		p := w.state.Pod
		// The API knows a static pod by its mirror's uid.
		match := p.Namespace == namespace && p.Name == name && (uid == "" || w.static || string(p.UID) == uid)
		ending := !w.state.EndingSince.IsZero()
		w.mu.Unlock()
		if match && (hit == nil || !ending) {
			hit = w
		}
	}
	return hit
}

// Pod returns a pod of the node by namespace, name and, if not "", uid.
func (k *Kubelet) Pod(namespace, name, uid string) (*corev1.Pod, bool) {
	w := k.find(namespace, name, uid)
	if w == nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Pod, true
}

// Container finds a container of a pod; previous asks for the instance that
// ran before the present one. The errors are sentences for the user.
func (k *Kubelet) Container(namespace, name, uid, container string, previous bool) (*ContainerRef, error) {
	w := k.find(namespace, name, uid)
	if w == nil {
		return nil, fmt.Errorf("pod %q not found", name+"_"+namespace)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.state.Pod
	if container == "" && len(pod.Spec.Containers) > 0 {
		container = pod.Spec.Containers[0].Name
	}
	spec, _ := findContainer(&pod.Spec, container)
	if spec == nil {
		return nil, fmt.Errorf("container %q in pod %q is not available", container, name)
	}
	insts := w.snapshot().instances(container)
	if previous {
		// While the container waits to be restarted, its newest instance is
		// the previous one.
		if _, waiting := w.waiting[container]; !waiting || len(insts) == 0 || !insts[0].exited() {
			insts = insts[min(1, len(insts)):]
		}
		if len(insts) == 0 {
			return nil, fmt.Errorf("previous terminated container %q in pod %q not found", container, name)
		}
	}
	if len(insts) == 0 {
		why := defaultWaiting(&w.state)
		if r, ok := w.waiting[container]; ok {
			why = r
		}
		if why.Message != "" {
			return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", container, name, why.Message)
		}
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", container, name, why.Reason)
	}
	c := insts[0]
	dir := k.podLogDir(pod)
	log := c.LogPath
	if log == "" {
		log = filepath.Join(dir, containerLog(container, c.attempt()))
	}
	return &ContainerRef{
		ID: c.Id, Log: log, PodLogDir: dir, Spec: spec, Attempt: c.attempt(),
		Running: c.State == runtimeapi.ContainerState_CONTAINER_RUNNING,
	}, nil
}

// Sandbox returns the id of a pod's running sandbox and the address under
// which its containers are reached.
func (k *Kubelet) Sandbox(namespace, name, uid string) (id, ip string, err error) {
	w := k.find(namespace, name, uid)
	if w == nil {
		return "", "", fmt.Errorf("pod %q not found", name+"_"+namespace)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	sb := w.snapshot().sandbox()
	if sb == nil {
		return "", "", fmt.Errorf("pod %q has no running sandbox", name+"_"+namespace)
	}
	return sb.Id, podIP(w.state.Pod, sb, k.facts.IPs), nil
}

// ProbeCounts tells how the checks of the probes went.
func (k *Kubelet) ProbeCounts() []probes.Counts { return k.probes.Counts() }

// Cgroups gives access to what pods and containers use.
func (k *Kubelet) Cgroups() *cgroups.Manager { return k.cgroups }

// ContainerGroup returns the cgroup of a container of a pod, where the runtime
// makes it by the container's id below its pod's.
func (k *Kubelet) ContainerGroup(pod *corev1.Pod, id string) string {
	return filepath.Join(k.cgroups.Group(podCgroup(pod)), id)
}

// PodGroup returns the cgroup of a pod.
func (k *Kubelet) PodGroup(pod *corev1.Pod) string { return k.cgroups.Group(podCgroup(pod)) }

// NodeName is the node's name.
func (k *Kubelet) NodeName() string { return k.cfg.NodeName }

// LogDir is the folder below which containers log.
func (k *Kubelet) LogDir() string { return k.cfg.LogDir }
