package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *checker) containers(path *field.Path) field.ErrorList {
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		ctr, p := &c.spec.Containers[i], path.Index(i)
		errs = append(errs, c.container(ctr, p)...)
		errs = append(errs, duplicateName(names, ctr.Name, p)...)
		errs = append(errs, c.lifecycleAndProbes(ctr, p)...)
		errs = append(errs, c.restartRules(ctr, p, true)...)
	}
	return append(errs, hostPortConflicts(c.spec.Containers, nil, path)...)
}

func duplicateName(names sets.Set[string], name string, path *field.Path) field.ErrorList {
	if name != "" && names.Has(name) {
		return field.ErrorList{field.Duplicate(path.Child("name"), name)}
	}
	names.Insert(name)
	return nil
}

// initContainers checks the init containers; one with restart policy Always
// is a sidecar (KEP 753), which may have what other containers have.
func (c *checker) initContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		names.Insert(c.spec.Containers[i].Name)
	}
	var sidecars []corev1.Container
	for i := range c.spec.InitContainers {
		ctr, p := &c.spec.InitContainers[i], path.Index(i)
		errs = append(errs, c.container(ctr, p)...)
		errs = append(errs, duplicateName(names, ctr.Name, p)...)
		errs = append(errs, hostPortConflicts([]corev1.Container{*ctr}, sidecars, path)...)
		errs = append(errs, c.restartRules(ctr, p, false)...)
		if isSidecar(ctr) {
			sidecars = append(sidecars, *ctr)
			errs = append(errs, c.lifecycleAndProbes(ctr, p)...)
			continue
		}
		const text = "may not be set for init containers without restartPolicy=Always"
		for _, f := range []struct {
			set  bool
			name string
		}{
			{ctr.Lifecycle != nil, "lifecycle"}, {ctr.LivenessProbe != nil, "livenessProbe"},
			{ctr.ReadinessProbe != nil, "readinessProbe"}, {ctr.StartupProbe != nil, "startupProbe"},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(p.Child(f.name), text))
			}
		}
	}
	return errs
}

// restartRules checks a container's own restart policy and its rules (KEP
// 5307).
func (c *checker) restartRules(ctr *corev1.Container, path *field.Path, regular bool) field.ErrorList {
	var errs field.ErrorList
	if p := ctr.RestartPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("restartPolicy"),
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	if len(ctr.RestartPolicyRules) == 0 {
		return errs
	}
	rules := path.Child("restartPolicyRules")
	if ctr.RestartPolicy == nil {
		errs = append(errs, field.Required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		if !regular {
			return errs
		}
	}
	if n := len(ctr.RestartPolicyRules); n > 20 {
		errs = append(errs, field.TooMany(rules, n, 20))
	}
	for i, r := range ctr.RestartPolicyRules {
		p := rules.Index(i)
		errs = append(errs, check.OneOf(r.Action, p.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(p.Child("exitCodes"), "must be specified"))
			continue
		}
		codes := p.Child("exitCodes")
		errs = append(errs, check.OneOf(r.ExitCodes.Operator, codes.Child("operator"), corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooMany(codes.Child("values"), n, 255))
		}
	}
	return errs
}

// container checks what all kinds of containers share.
func (c *checker) container(ctr *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ctr.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, invalid(path.Child("name"), ctr.Name, validation.IsDNS1123Label(ctr.Name))...)
	}
	switch {
	case ctr.Image == "":
		errs = append(errs, field.Required(path.Child("image"), ""))
	case !c.opts.Template && strings.TrimSpace(ctr.Image) != ctr.Image:
		errs = append(errs, field.Invalid(path.Child("image"), ctr.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, check.OneOf(ctr.TerminationMessagePolicy, path.Child("terminationMessagePolicy"),
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, ValidateContainerPorts(ctr.Ports, path.Child("ports"))...)
	errs = append(errs, c.env(ctr.Env, path.Child("env"))...)
	errs = append(errs, validateEnvFrom(ctr.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, c.mounts(ctr, path.Child("volumeMounts"))...)
	errs = append(errs, c.devices(ctr, path.Child("volumeDevices"))...)
	errs = append(errs, oneOf(ctr.ImagePullPolicy, path.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, c.containerResources(&ctr.Resources, path.Child("resources"))...)
	errs = append(errs, c.resizePolicy(ctr, path.Child("resizePolicy"))...)
	return append(errs, c.securityContext(ctr.SecurityContext, path.Child("securityContext"))...)
}

// ValidateContainerPorts checks the ports of one container.
func ValidateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		p := path.Index(i)
		if port.Name != "" {
			if msgs := validation.IsValidPortName(port.Name); len(msgs) > 0 {
				errs = append(errs, invalid(p.Child("name"), port.Name, msgs)...)
			} else if names.Has(port.Name) {
				errs = append(errs, field.Duplicate(p.Child("name"), port.Name))
			} else {
				names.Insert(port.Name)
			}
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(p.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalid(p.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))...)
		}
		if port.HostPort != 0 {
			errs = append(errs, invalid(p.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))...)
		}
		errs = append(errs, oneOf(port.Protocol, p.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	return errs
}

// hostPortConflicts finds host ports that the containers, or those before
// them, take twice.
func hostPortConflicts(containers, before []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	key := func(p *corev1.ContainerPort) string { return fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort) }
	for i := range before {
		for j := range before[i].Ports {
			taken.Insert(key(&before[i].Ports[j]))
		}
	}
	for i := range containers {
		for j := range containers[i].Ports {
			port := &containers[i].Ports[j]
			if port.HostPort == 0 {
				continue
			}
			if k := key(port); taken.Has(k) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), k))
			} else {
				taken.Insert(k)
			}
		}
	}
	return errs
}

func (c *checker) lifecycleAndProbes(ctr *corev1.Container, path *field.Path) field.ErrorList {
	errs := c.lifecycle(ctr.Lifecycle, path.Child("lifecycle"))
	for _, f := range []struct {
		probe *corev1.Probe
		name  string
	}{{ctr.LivenessProbe, "livenessProbe"}, {ctr.ReadinessProbe, "readinessProbe"}, {ctr.StartupProbe, "startupProbe"}} {
		if f.probe == nil {
			continue
		}
		p := path.Child(f.name)
		errs = append(errs, ValidateProbe(f.probe, p)...)
		grace := f.probe.TerminationGracePeriodSeconds
		if f.name == "readinessProbe" {
			if grace != nil {
				errs = append(errs, field.Invalid(p.Child("terminationGracePeriodSeconds"), *grace, "must not be set for readinessProbes"))
			}
			continue
		}
		if f.probe.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(p.Child("successThreshold"), f.probe.SuccessThreshold, "must be 1"))
		}
	}
	return errs
}

// ValidateProbe checks a probe; nil is fine.
func ValidateProbe(p *corev1.Probe, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, nil, path)
	for _, f := range []struct {
		n    int32
		name string
	}{
		{p.InitialDelaySeconds, "initialDelaySeconds"}, {p.TimeoutSeconds, "timeoutSeconds"}, {p.PeriodSeconds, "periodSeconds"},
		{p.SuccessThreshold, "successThreshold"}, {p.FailureThreshold, "failureThreshold"},
	} {
		if f.n < 0 {
			errs = append(errs, field.Invalid(path.Child(f.name), int64(f.n), notNegative).WithOrigin("minimum"))
		}
	}
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0"))
	}
	return errs
}

const notNegative = "must be greater than or equal to 0"

func (c *checker) lifecycle(l *corev1.Lifecycle, path *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	var errs field.ErrorList
	for _, f := range []struct {
		h    *corev1.LifecycleHandler
		name string
	}{{l.PostStart, "postStart"}, {l.PreStop, "preStop"}} {
		if f.h != nil {
			errs = append(errs, validateHandler(handler{exec: f.h.Exec, http: f.h.HTTPGet, tcp: f.h.TCPSocket, sleep: f.h.Sleep},
				c.spec.TerminationGracePeriodSeconds, path.Child(f.name))...)
		}
	}
	if l.StopSignal != nil {
		p := path.Child("stopSignal")
		if c.spec.OS == nil {
			errs = append(errs, field.Forbidden(p, "may not be set for containers with empty `spec.os.name`"))
		} else {
			errs = append(errs, oneOf(*l.StopSignal, p, stopSignals(c.spec.OS.Name)...)...)
		}
	}
	return errs
}

// handler is a probe's or a lifecycle's handler.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

// validateHandler checks that there is exactly one handler, and it. grace
// bounds a sleep.
func validateHandler(h handler, grace *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(set bool, name string, check func(p *field.Path) field.ErrorList) {
		if !set {
			return
		}
		p := path.Child(name)
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(p, "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, check(p)...)
	}
	one(h.exec != nil, "exec", func(p *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(p.Child("command"), "")}
		}
		return nil
	})
	one(h.http != nil, "httpGet", func(p *field.Path) field.ErrorList {
		errs := required(h.http.Path, p.Child("path"))
		errs = append(errs, validatePortNumOrName(h.http.Port, p.Child("port"))...)
		errs = append(errs, oneOf(h.http.Scheme, p.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
		for _, header := range h.http.HTTPHeaders {
			errs = append(errs, invalid(p.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
		}
		return errs
	})
	one(h.tcp != nil, "tcpSocket", func(p *field.Path) field.ErrorList {
		return validatePortNumOrName(h.tcp.Port, p.Child("port"))
	})
	one(h.grpc != nil, "grpc", func(p *field.Path) field.ErrorList {
		return validatePortNumOrName(intstr.FromInt32(h.grpc.Port), p.Child("port"))
	})
	one(h.sleep != nil, "sleep", func(p *field.Path) field.ErrorList {
		limit := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if grace != nil {
			limit = *grace
		}
		if s := h.sleep.Seconds; s < 0 || s > limit {
			return field.ErrorList{field.Invalid(p, s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", limit))}
		}
		return nil
	})
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

// validatePortNumOrName checks a port that may be named.
func validatePortNumOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	}
	return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
}

// ephemeralContainers checks the containers that were added for debugging;
// they have neither ports nor probes nor resources.
func (c *checker) ephemeralContainers(path *field.Path) field.ErrorList {
	if len(c.spec.EphemeralContainers) == 0 {
		return nil
	}
	var errs field.ErrorList
	names, targets := sets.New[string](), sets.New[string]()
	for _, list := range [][]corev1.Container{c.spec.Containers, c.spec.InitContainers} {
		for i := range list {
			names.Insert(list[i].Name)
		}
	}
	for i := range c.spec.Containers {
		targets.Insert(c.spec.Containers[i].Name)
	}
	for i := range c.spec.EphemeralContainers {
		e, p := &c.spec.EphemeralContainers[i], path.Index(i)
		ctr := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, c.container(&ctr, p)...)
		errs = append(errs, duplicateName(names, ctr.Name, p)...)
		if t := e.TargetContainerName; t != "" && !targets.Has(t) {
			errs = append(errs, field.NotFound(p.Child("targetContainerName"), t))
		}
		const text = "cannot be set for an Ephemeral Container"
		for _, f := range []struct {
			set  bool
			name string
		}{
			{len(ctr.Ports) > 0, "ports"}, {ctr.LivenessProbe != nil, "livenessProbe"}, {ctr.ReadinessProbe != nil, "readinessProbe"},
			{ctr.StartupProbe != nil, "startupProbe"}, {ctr.Lifecycle != nil, "lifecycle"}, {len(ctr.ResizePolicy) > 0, "resizePolicy"},
			{ctr.RestartPolicy != nil, "restartPolicy"}, {len(ctr.RestartPolicyRules) > 0, "restartPolicyRules"},
			{len(ctr.Resources.Limits)+len(ctr.Resources.Requests)+len(ctr.Resources.Claims) > 0, "resources"},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(p.Child(f.name), text))
			}
		}
		for j, m := range ctr.VolumeMounts {
			mp := p.Child("volumeMounts").Index(j)
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(mp.Child("subPath"), text))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(mp.Child("subPathExpr"), text))
			}
		}
	}
	return errs
}

// stopSignals are the signals that a container may ask to be stopped with.
func stopSignals(os corev1.OSName) []corev1.Signal {
	if os == corev1.Windows {
		return []corev1.Signal{corev1.SIGTERM, corev1.SIGKILL}
	}
	s := []corev1.Signal{
		corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT, corev1.SIGFPE,
		corev1.SIGHUP, corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE, corev1.SIGPOLL,
		corev1.SIGPROF, corev1.SIGPWR, corev1.SIGQUIT, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP, corev1.SIGSYS,
		corev1.SIGTERM, corev1.SIGTRAP, corev1.SIGTSTP, corev1.SIGTTIN, corev1.SIGTTOU, corev1.SIGURG, corev1.SIGUSR1,
		corev1.SIGUSR2, corev1.SIGVTALRM, corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ, corev1.SIGRTMIN, corev1.SIGRTMAX,
	}
	for i := 1; i <= 15; i++ {
		s = append(s, corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 14; i >= 1; i-- {
		s = append(s, corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	return s
}
