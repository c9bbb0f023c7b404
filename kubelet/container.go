package kubelet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// launch makes and starts one container. seen is called with the container as
// soon as it exists and again once it runs. Errors are of type *startError.
func (k *Kubelet) launch(ctx context.Context, w *worker, pod *corev1.Pod, a startAction, sb *runtimeapi.PodSandboxStatus) error {
	c := a.Container
	say := func(typ, reason, format string, args ...any) {
		k.containerEvent(pod, a.Kind, c.Name, typ, reason, format, args...)
	}
	sandbox, err := k.sandboxConfig(pod, sb.GetMetadata().GetAttempt())
	if err != nil {
		return &startError{reason: reason{createContainerConfigError, err.Error()}}
	}
	begun := k.cfg.Clock.Now()
	img, err := k.ensureImage(ctx, pod, c, a.Kind, sandbox)
	w.mu.Lock()
	w.starting.pulled += k.cfg.Clock.Since(begun)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	images, err := k.volumeImages(ctx, pod, c, a.Kind, sandbox)
	if err != nil {
		return err
	}
	cfg, err := k.containerConfig(ctx, w, pod, a, sb, img, images)
	if err != nil {
		return &startError{reason: reason{createContainerConfigError, err.Error()}}
	}
	kind := turnFinish
	if a.Attempt > 0 {
		kind = turnAgain
	}
	done := k.turns.take(ctx, kind, maxTurn)
	defer done()
	if ctx.Err() != nil { // ended while it waited
		return &startError{reason: reason{createContainerError, ctx.Err().Error()}}
	}
	created, err := k.cfg.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sb.Id, Config: cfg, SandboxConfig: sandbox})
	if err != nil {
		return &startError{reason: reason{createContainerError, status.Convert(err).Message()}}
	}
	id := created.ContainerId
	say(corev1.EventTypeNormal, "Created", "Container created")
	// Before the start: whoever sees the container run finds its log.
	k.linkLog(k.containerLink(pod.Name, pod.Namespace, c.Name, id), filepath.Join(k.podLogDir(pod), cfg.LogPath))
	if err := k.devices.PreStart(ctx, pod.UID, c.Name); err != nil {
		w.inspect(context.WithoutCancel(ctx), id, sb.Id)
		return &startError{reason: reason{"PreStartHookError", err.Error()}}
	}
	err = k.startContainer(ctx, id)
	done()
	// Whatever came of it, the runtime knows: the exit reason of a container
	// that could not start is there too.
	w.inspect(context.WithoutCancel(ctx), id, sb.Id)
	k.images.use(img.Id, k.cfg.Clock.Now())
	if err != nil {
		return &startError{reason: reason{runContainerError, status.Convert(err).Message()}}
	}
	say(corev1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		if err := k.hook(ctx, pod, c, id, podIP(pod, sb, k.facts.IPs), c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
			say(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			k.log.Info("postStart hook failed", "pod", podTitle(pod), "container", c.Name, "error", err)
			return &startError{reason: reason{postStartHookError, "PostStart hook failed"}, Quiet: true}
		}
	}
	return nil
}

// startPatience is how long a start that is under way goes on when its pod ends.
const startPatience = 10 * time.Second

// startContainer starts a container. A start that was cut off would show in the
// pod's status as the container's failure: a pod that ends meanwhile lets it
// finish, and then stops it, unless the runtime hangs.
func (k *Kubelet) startContainer(ctx context.Context, id string) error {
	long, cancel := context.WithCancel(k.ctx)
	defer cancel()
	var late clock.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		late = k.cfg.Clock.AfterFunc(startPatience, cancel)
	})
	defer func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if late != nil {
			late.Stop()
		}
	}()
	_, err := k.cfg.Runtime.StartContainer(long, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// podIP is where a pod's containers listen, as the kubelet reaches them.
func podIP(pod *corev1.Pod, sb *runtimeapi.PodSandboxStatus, nodeIPs []string) string {
	ips := nodeIPs
	if !pod.Spec.HostNetwork {
		ips = sandboxIPs(sb)
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

// containerConfig is what the runtime is told about a container. Errors are
// sentences for its status.
func (k *Kubelet) containerConfig(ctx context.Context, w *worker, pod *corev1.Pod, a startAction, sb *runtimeapi.PodSandboxStatus, img *runtimeapi.Image, images map[string]*runtimeapi.ImageSpec) (*runtimeapi.ContainerConfig, error) {
	c := a.Container
	security, err := containerSecurity(pod, c, userOf(img), k.cfg.SeccompDir, k.cfg.Containers.SeccompDefault)
	if err != nil {
		return nil, err
	}
	users, err := k.userNamespace(pod)
	if err != nil {
		return nil, err
	}
	security.NamespaceOptions.UsernsOptions = users
	if a.Target != "" {
		target := w.runningID(a.Target)
		if target == "" {
			return nil, fmt.Errorf("unable to find target container %s", a.Target)
		}
		security.NamespaceOptions.Pid, security.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, target
	}
	ips := sandboxIPs(sb)
	if pod.Spec.HostNetwork {
		ips = k.facts.IPs
	}
	src := k.envSources(ctx, pod, ips)
	env, err := makeEnv(c, src)
	if err != nil {
		return nil, err
	}
	mounts, err := k.mounts(pod, c, a.Attempt, env, ips, images)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.Image == nil {
			// What belongs to root in a volume belongs to the pod's root.
			m.UidMappings, m.GidMappings = users.GetUids(), users.GetGids()
		}
	}
	logPath := containerLog(c.Name, a.Attempt)
	if err := os.MkdirAll(filepath.Join(k.podLogDir(pod), c.Name), 0o755); err != nil {
		return nil, err
	}
	cfg := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(a.Attempt)},
		Image:      &runtimeapi.ImageSpec{Image: img.Id, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, env),
		Args:       expandAll(c.Args, env),
		WorkingDir: c.WorkingDir,
		Mounts:     mounts,
		Labels: map[string]string{
			labelPod: pod.Name, labelNamespace: pod.Namespace, labelUID: string(pod.UID), labelContainer: c.Name,
		},
		Annotations: map[string]string{
			annotationRestarts: strconv.Itoa(a.Attempt), annotationSpecHash: specHash(c),
			annotationResources:       encodeResources(&c.Resources),
			annotationTerminationPath: c.TerminationMessagePath, annotationTerminationPolicy: string(c.TerminationMessagePolicy),
			annotationPodTerminationTime: strconv.FormatInt(spec64(pod.Spec.TerminationGracePeriodSeconds), 10),
		},
		LogPath: logPath,
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       k.resources(pod, c),
			SecurityContext: security,
		},
	}
	for _, e := range env {
		cfg.Envs = append(cfg.Envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	if err := k.volumeDevices(pod, c, cfg); err != nil {
		return nil, err
	}
	if err := k.exclusiveConfig(pod, c, cfg); err != nil {
		return nil, err
	}
	k.claimConfig(pod, c, cfg)
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		cfg.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value[string(*l.StopSignal)])
	}
	return cfg, nil
}

func spec64(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

func userOf(img *runtimeapi.Image) imageUser {
	if img.Uid != nil {
		return imageUser{UID: &img.Uid.Value}
	}
	return imageUser{Name: img.Username}
}

// mounts lists what a container sees of its pod's volumes, its hosts file and
// its termination message.
func (k *Kubelet) mounts(pod *corev1.Pod, c *corev1.Container, attempt int, env []envVar, ips []string, images map[string]*runtimeapi.ImageSpec) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	ownHosts := false
	for n := range c.VolumeMounts {
		m, err := k.volumeMount(pod, c, n, env, images)
		if err != nil {
			return nil, err
		}
		ownHosts = ownHosts || m.ContainerPath == "/etc/hosts"
		out = append(out, m)
	}
	if !ownHosts {
		hosts, err := k.writeHosts(pod, ips)
		if err != nil {
			return nil, fmt.Errorf("write the hosts file: %w", err)
		}
		ro := c.SecurityContext != nil && isTrue(c.SecurityContext.ReadOnlyRootFilesystem)
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: hosts, Readonly: ro, SelinuxRelabel: true})
	}
	if c.TerminationMessagePath == "" {
		return out, nil
	}
	dir := filepath.Join(k.volumes.PodDir(pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, randomName())
	// The container may run as anyone.
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, err
	}
	out = append(out, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path, SelinuxRelabel: true})
	return out, nil
}

func randomName() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// volumeMount resolves one volumeMount.
func (k *Kubelet) volumeMount(pod *corev1.Pod, c *corev1.Container, n int, env []envVar, images map[string]*runtimeapi.ImageSpec) (*runtimeapi.Mount, error) {
	vm := &c.VolumeMounts[n]
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if sub, err = expandStrict(vm.SubPathExpr, env); err != nil {
			return nil, err
		}
	}
	// Unlike containers' images, those of volumes go by name: containerd finds
	// no others.
	if img := images[vm.Name]; img != nil {
		return &runtimeapi.Mount{
			ContainerPath: filepath.Join("/", vm.MountPath), Readonly: true, ImageSubPath: sub,
			Image: img,
		}, nil
	}
	host, err := k.volumes.Path(pod, vm.Name)
	if err != nil {
		return nil, err
	}
	if sub != "" {
		if host, err = k.volumes.Subpath(pod, vm.Name, c.Name, n, sub); err != nil {
			return nil, err
		}
	}
	at := vm.MountPath
	if !filepath.IsAbs(at) {
		at = filepath.Join("/", at)
	}
	m := &runtimeapi.Mount{ContainerPath: at, HostPath: host, Readonly: vm.ReadOnly}
	if vm.MountPropagation != nil {
		switch *vm.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	if vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && k.recursiveReadOnly() {
		m.RecursiveReadOnly = true
	}
	for i := range pod.Spec.Volumes {
		// Content that the kubelet keeps fresh is not for containers to
		// write (API documentation of the volume types).
		v := &pod.Spec.Volumes[i]
		if v.Name == vm.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly {
			m.Readonly = true
		}
		if v.Name == vm.Name && (v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil) {
			m.Readonly = true
		}
	}
	return m, nil
}

// volumeImages makes the images present that a container mounts as volumes,
// by volume. Errors are of type *startError.
func (k *Kubelet) volumeImages(ctx context.Context, pod *corev1.Pod, c *corev1.Container, kind containerKind, sandbox *runtimeapi.PodSandboxConfig) (map[string]*runtimeapi.ImageSpec, error) {
	var out map[string]*runtimeapi.ImageSpec
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		as := &corev1.Container{Name: c.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}
		img, err := k.ensureImage(ctx, pod, as, kind, sandbox)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]*runtimeapi.ImageSpec{}
		}
		name, err := normalImage(v.Image.Reference)
		if err != nil {
			return nil, err
		}
		out[v.Name] = &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: v.Image.Reference}
		k.images.use(img.Id, k.cfg.Clock.Now())
	}
	return out, nil
}

// expandStrict expands a subPathExpr; an unknown variable is an error.
func expandStrict(expr string, env []envVar) (string, error) {
	var missing []string
	out := expand(expr, func(name string) (string, bool) {
		for _, e := range env {
			if e.Name == name {
				return e.Value, true
			}
		}
		missing = append(missing, name)
		return "", true
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %q", strings.Join(missing, ", "))
	}
	return out, nil
}

// envSources gathers what a pod's environment is made of.
func (k *Kubelet) envSources(ctx context.Context, pod *corev1.Pod, ips []string) *envSources {
	return &envSources{
		Pod: pod, PodIPs: ips, HostIPs: k.facts.IPs, NodeName: k.cfg.NodeName, Allocatable: k.allocatable(),
		Objects:  podObjects{ctx, k.configMaps, k.secrets},
		Services: k.servicesFor(pod.Namespace),
		ReadFile: k.envFileReader(pod),
	}
}
