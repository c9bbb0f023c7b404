package kubelet

import (
	"fmt"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths of /proc and /sys that containers do not see, or see read only, unless
// procMount says otherwise (API documentation of ProcMountType).
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effectiveSecurity merges the pod's security context into the container's,
// which wins.
func effectiveSecurity(pod *corev1.Pod, c *corev1.Container) corev1.SecurityContext {
	var out corev1.SecurityContext
	if c.SecurityContext != nil {
		out = *c.SecurityContext
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	inherit(&out.SELinuxOptions, p.SELinuxOptions)
	inherit(&out.RunAsUser, p.RunAsUser)
	inherit(&out.RunAsGroup, p.RunAsGroup)
	inherit(&out.RunAsNonRoot, p.RunAsNonRoot)
	inherit(&out.SeccompProfile, p.SeccompProfile)
	inherit(&out.AppArmorProfile, p.AppArmorProfile)
	return out
}

func inherit[T any](dst **T, from *T) {
	if *dst == nil {
		*dst = from
	}
}

// namespaces says which namespaces a pod's containers share.
func namespaces(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		n.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		n.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		n.Pid = runtimeapi.NamespaceMode_POD
	}
	return n
}

func sandboxSecurity(pod *corev1.Pod, seccompDir string) *runtimeapi.LinuxSandboxSecurityContext {
	s := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod),
		// The pause process needs nothing: it always runs confined.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	for _, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			if sc := l[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				s.Privileged = true
			}
		}
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return s
	}
	s.RunAsUser, s.RunAsGroup = int64Value(p.RunAsUser), int64Value(p.RunAsGroup)
	s.SupplementalGroups, s.SupplementalGroupsPolicy = groups(p)
	s.SelinuxOptions = selinux(p.SELinuxOptions)
	if p.SeccompProfile != nil {
		s.Seccomp = seccomp(p.SeccompProfile, false, false, seccompDir)
	}
	return s
}

func int64Value(p *int64) *runtimeapi.Int64Value {
	if p == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *p}
}

func groups(p *corev1.PodSecurityContext) ([]int64, runtimeapi.SupplementalGroupsPolicy) {
	var out []int64
	out = append(out, p.SupplementalGroups...)
	if p.FSGroup != nil {
		out = append(out, *p.FSGroup)
	}
	if p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return out, runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return out, runtimeapi.SupplementalGroupsPolicy_Merge
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func seccomp(p *corev1.SeccompProfile, privileged, confine bool, dir string) *runtimeapi.SecurityProfile {
	if p == nil && confine {
		p = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	switch {
	case p == nil, privileged, p.Type == corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(dir, filepath.Clean("/"+*p.LocalhostProfile))}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func apparmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case corev1.AppArmorProfileTypeLocalhost:
		ref := ""
		if p.LocalhostProfile != nil {
			ref = *p.LocalhostProfile
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

// imageUser is the user that an image names: a number, or a word.
type imageUser struct {
	UID  *int64
	Name string
}

// containerSecurity computes a container's security context; confine has what
// names no seccomp profile run under the runtime's. The error is a sentence for its status (CreateContainerConfigError).
func containerSecurity(pod *corev1.Pod, c *corev1.Container, img imageUser, seccompDir string, confine bool) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, c)
	if err := checkNonRoot(pod, c, &sc, img); err != nil {
		return nil, err
	}
	privileged := isTrue(sc.Privileged)
	s := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod),
		Privileged:       privileged,
		ReadonlyRootfs:   isTrue(sc.ReadOnlyRootFilesystem),
		RunAsUser:        int64Value(sc.RunAsUser), RunAsGroup: int64Value(sc.RunAsGroup),
		SelinuxOptions: selinux(sc.SELinuxOptions),
		Seccomp:        seccomp(sc.SeccompProfile, privileged, confine, seccompDir),
		Apparmor:       apparmor(sc.AppArmorProfile),
		NoNewPrivs:     sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
	}
	if s.RunAsUser == nil {
		// The runtime resolves the image's user; it must not become root by
		// default where the image names a number.
		if img.UID != nil {
			s.RunAsUser = &runtimeapi.Int64Value{Value: *img.UID}
		} else {
			s.RunAsUsername = img.Name
		}
	}
	if p := pod.Spec.SecurityContext; p != nil {
		s.SupplementalGroups, s.SupplementalGroupsPolicy = groups(p)
	}
	if caps := sc.Capabilities; caps != nil {
		s.Capabilities = &runtimeapi.Capability{}
		for _, a := range caps.Add {
			s.Capabilities.AddCapabilities = append(s.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range caps.Drop {
			s.Capabilities.DropCapabilities = append(s.Capabilities.DropCapabilities, string(d))
		}
	}
	if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return s, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// checkNonRoot holds the user against runAsNonRoot.
func checkNonRoot(pod *corev1.Pod, c *corev1.Container, sc *corev1.SecurityContext, img imageUser) error {
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podTitle(pod), c.Name)
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case sc.RunAsUser != nil:
		return nil
	case img.UID != nil && *img.UID == 0, img.UID == nil && img.Name == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case img.UID == nil:
		if n, err := strconv.ParseInt(img.Name, 10, 64); err == nil && n != 0 {
			return nil
		}
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", img.Name, where)
	}
	return nil
}
