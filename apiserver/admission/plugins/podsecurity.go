package plugins

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	psaconfig "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/admission/api/load"
	"k8s.io/pod-security-admission/admission/api/validation"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// podSecurity holds pods to the Pod Security Standards that their namespace's
// labels name.
func podSecurity(c *Config, d deps) (*plugin, error) {
	data := c.Configs["PodSecurity"] // empty: upstream's defaults
	if len(data) > 0 {
		var err error
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, badConfig("PodSecurity", err)
		}
	}
	conf, err := load.LoadFromData(data)
	if err != nil {
		return nil, badConfig("PodSecurity", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("failed to initialize admission plugin %q: PodSecurity configuration error: %w", "PodSecurity", err)
	}
	defaults, err := psaconfig.ToPolicy(conf.Defaults)
	if err != nil {
		return nil, fail(err)
	}
	if err := validation.ValidatePodSecurityConfiguration(conf).ToAggregate(); err != nil {
		return nil, fail(err)
	}
	s := &security{deps: d, defaults: defaults, exempt: conf.Exemptions, evaluator: sync.OnceValues(func() (policy.Evaluator, error) {
		v := psa.MajorMinorVersion(1, 36)
		return policy.NewEvaluator(policy.DefaultChecks(), &v)
	})}
	return &plugin{ops: ops(admission.Create, admission.Update), validate: s.validate}, nil
}

type security struct {
	deps
	defaults  psa.Policy
	exempt    psaconfig.PodSecurityExemptions
	evaluator func() (policy.Evaluator, error)
}

// exemption says why a pod is not judged; "" if it is.
func (s *security) exemption(a *admission.Attributes, spec *corev1.PodSpec) string {
	switch {
	case slices.Contains(s.exempt.Namespaces, a.Namespace):
		return "namespace"
	case slices.Contains(s.exempt.Usernames, a.User.Name):
		return "user"
	case spec != nil && spec.RuntimeClassName != nil && slices.Contains(s.exempt.RuntimeClasses, *spec.RuntimeClassName):
		return "runtimeClass"
	}
	return ""
}

func (s *security) validate(ctx context.Context, a *admission.Attributes) error {
	switch obj := a.Object.(type) {
	case *corev1.Namespace:
		return s.namespace(ctx, a, obj)
	case *corev1.Pod:
		if a.Subresource != "" && a.Subresource != "ephemeralcontainers" && a.Subresource != "resize" {
			return nil
		}
		if old, ok := a.Old.(*corev1.Pod); ok && old != nil && !significant(obj, old) {
			return nil
		}
		return s.pod(ctx, a, &obj.ObjectMeta, &obj.Spec, true)
	}
	if a.Subresource != "" {
		return nil
	}
	if t := templateOf(a.Object); t != nil {
		return s.pod(ctx, a, &t.ObjectMeta, &t.Spec, false)
	}
	return nil
}

// templateOf returns the pod template of a workload.
func templateOf(obj runtime.Object) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// significant says that an update changes what is judged: all else of a pod
// is immutable, or does not matter here.
func significant(pod, old *corev1.Pod) bool {
	security := func(in map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range in {
			if strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) || strings.HasPrefix(k, "seccomp.security.alpha.kubernetes.io/") {
				out[k] = v
			}
		}
		return out
	}
	return !equality.Semantic.DeepEqual(pod.Spec, old.Spec) || !maps.Equal(security(pod.Annotations), security(old.Annotations))
}

// pod judges a pod, or (enforce unset) the template of a workload, which is
// only warned about, since its pods are judged themselves.
func (s *security) pod(ctx context.Context, a *admission.Attributes, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	if why := s.exemption(a, spec); why != "" {
		a.Annotate(psa.AuditAnnotationPrefix+psa.ExemptionReasonAnnotationKey, why)
		return nil
	}
	ns, err := get(ctx, client.Namespaces.In(s.door, ""), a.Namespace)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q: %w", a.Namespace, err))
	}
	p, labelErrs := psa.PolicyToEvaluate(ns.Labels, s.defaults)
	if len(labelErrs) == 0 && p.FullyPrivileged() {
		if enforce {
			a.Annotate(psa.AuditAnnotationPrefix+psa.EnforcedPolicyAnnotationKey, p.Enforce.String())
		}
		return nil
	}
	ev, err := s.evaluator()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	violation := func(lv psa.LevelVersion) string {
		res := policy.AggregateCheckResults(ev.EvaluatePod(lv, meta, spec))
		if res.Allowed {
			return ""
		}
		return fmt.Sprintf("PodSecurity %q: %s", lv.String(), res.ForbiddenDetail())
	}
	if len(labelErrs) > 0 {
		a.Annotate(psa.AuditAnnotationPrefix+"error", fmt.Sprintf("Failed to parse policy: %v", labelErrs.ToAggregate()))
	}
	if v := violation(p.Audit); v != "" {
		a.Annotate(psa.AuditAnnotationPrefix+psa.AuditViolationsAnnotationKey, "would violate "+v)
	}
	if enforce {
		a.Annotate(psa.AuditAnnotationPrefix+psa.EnforcedPolicyAnnotationKey, p.Enforce.String())
		if v := violation(p.Enforce); v != "" {
			return forbid(a, "violates "+v)
		}
	}
	if v := violation(p.Warn); v != "" {
		a.Warn("would violate " + v)
	}
	return nil
}

// namespace checks the labels, and warns of pods that a stricter level would
// no longer let in.
func (s *security) namespace(ctx context.Context, a *admission.Attributes, ns *corev1.Namespace) error {
	if a.Subresource != "" {
		return nil
	}
	now, errs := psa.PolicyToEvaluate(ns.Labels, s.defaults)
	old, isUpdate := a.Old.(*corev1.Namespace)
	if !isUpdate || a.Operation == admission.Create {
		if len(errs) > 0 {
			return apierrors.NewInvalid(client.Namespaces.GVK().GroupKind(), ns.Name, errs)
		}
		s.warnOfExemption(a, ns, &now)
		return nil
	}
	was, oldErrs := psa.PolicyToEvaluate(old.Labels, s.defaults)
	if len(errs) > 0 {
		if len(oldErrs) > 0 { // was wrong before: other labels may still change
			return nil
		}
		return apierrors.NewInvalid(client.Namespaces.GVK().GroupKind(), ns.Name, errs)
	}
	if now.Enforce == was.Enforce || psa.CompareLevels(now.Enforce.Level, psa.LevelPrivileged) == 0 {
		return nil
	}
	if now.Enforce.Version == was.Enforce.Version && psa.CompareLevels(now.Enforce.Level, was.Enforce.Level) < 1 {
		return nil
	}
	if s.warnOfExemption(a, ns, &now) {
		return nil
	}
	s.warnOfPods(ctx, a, ns.Name, now.Enforce)
	return nil
}

// warnOfExemption says whether a namespace is exempt, and tells who gives it a
// policy all the same that this has no effect.
func (s *security) warnOfExemption(a *admission.Attributes, ns *corev1.Namespace, p *psa.Policy) bool {
	if !slices.Contains(s.exempt.Namespaces, ns.Name) {
		return false
	}
	if p.FullyPrivileged() || p.Equivalent(&s.defaults) {
		return true
	}
	var shown []string
	for _, mode := range []struct {
		name, label, version string
		is                   psa.LevelVersion
	}{
		{"enforce", psa.EnforceLevelLabel, psa.EnforceVersionLabel, p.Enforce},
		{"audit", psa.AuditLevelLabel, psa.AuditVersionLabel, p.Audit},
		{"warn", psa.WarnLevelLabel, psa.WarnVersionLabel, p.Warn},
	} {
		_, level := ns.Labels[mode.label]
		_, version := ns.Labels[mode.version]
		if (level || version) && mode.is.Level != psa.LevelPrivileged {
			shown = append(shown, mode.name+"="+mode.is.String())
		}
	}
	a.Warn(fmt.Sprintf("namespace %q is exempt from Pod Security, and the policy (%s) will be ignored", ns.Name, strings.Join(shown, ", ")))
	return true
}

const maxPodsToCheck = 3000

func (s *security) warnOfPods(ctx context.Context, a *admission.Attributes, ns string, lv psa.LevelVersion) {
	ev, err := s.evaluator()
	if err != nil {
		return
	}
	pods, err := list(ctx, client.Pods.In(s.door, ns))
	if err != nil {
		a.Warn("failed to list pods while checking new PodSecurity enforce level")
		return
	}
	if len(pods) > maxPodsToCheck {
		a.Warn(fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", maxPodsToCheck, len(pods)))
		pods = pods[:maxPodsToCheck]
	}
	byReason := map[string][]string{}
	for _, p := range pods {
		if res := policy.AggregateCheckResults(ev.EvaluatePod(lv, &p.ObjectMeta, &p.Spec)); !res.Allowed {
			byReason[res.ForbiddenReason()] = append(byReason[res.ForbiddenReason()], p.Name)
		}
	}
	if len(byReason) == 0 {
		return
	}
	a.Warn(fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", ns, lv.String()))
	var lines []string
	for reason, names := range byReason {
		line := slices.Min(names)
		switch n := len(names) - 1; {
		case n == 1:
			line += " (and 1 other pod)"
		case n > 1:
			line += fmt.Sprintf(" (and %d other pods)", n)
		}
		lines = append(lines, line+": "+reason)
	}
	slices.Sort(lines)
	for _, l := range lines {
		a.Warn(l)
	}
}
