package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// Annotations of a namespace by which its pods are placed.
const (
	nodeSelectorAnnotation       = "scheduler.alpha.kubernetes.io/node-selector"
	defaultTolerationsAnnotation = "scheduler.alpha.kubernetes.io/defaultTolerations"
	tolerationsWhitelist         = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// podNodeSelector keeps the pods of a namespace to the nodes that its
// annotation, or else the configuration, selects.
func podNodeSelector(c *Config, d deps) (*plugin, error) {
	var conf struct {
		PodNodeSelectorPluginConfig map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if _, err := c.config("PodNodeSelector", nil, &conf); err != nil {
		return nil, err
	}
	s := nodeSelectors{deps: d, byNamespace: conf.PodNodeSelectorPluginConfig}
	return &plugin{ops: ops(admission.Create), admit: s.admit, validate: s.validate}, nil
}

type nodeSelectors struct {
	deps
	byNamespace map[string]string // and clusterDefaultNodeSelector
}

func (s *nodeSelectors) of(ctx context.Context, a *admission.Attributes) (labels.Set, error) {
	ns, err := get(ctx, client.Namespaces.In(s.door, ""), a.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, err
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	text, ok := ns.Annotations[nodeSelectorAnnotation]
	if !ok {
		text = s.byNamespace["clusterDefaultNodeSelector"]
	}
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		return nil, unreasoned(err.Error())
	}
	return set, nil
}

// podOf returns the pod that is created, nil when it is something else, and
// what its namespace demands, which its own selector does not contradict.
func (s *nodeSelectors) podOf(ctx context.Context, a *admission.Attributes) (*corev1.Pod, labels.Set, error) {
	pod, ok := newPod(a)
	if !ok {
		return nil, nil, nil
	}
	want, err := s.of(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	if labels.Conflicts(want, labels.Set(pod.Spec.NodeSelector)) {
		return nil, nil, forbid(a, "pod node label selector conflicts with its namespace node label selector")
	}
	return pod, want, nil
}

func (s *nodeSelectors) admit(ctx context.Context, a *admission.Attributes) error {
	pod, want, err := s.podOf(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	pod.Spec.NodeSelector = labels.Merge(want, labels.Set(pod.Spec.NodeSelector))
	return s.validate(ctx, a)
}

func (s *nodeSelectors) validate(ctx context.Context, a *admission.Attributes) error {
	pod, _, err := s.podOf(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	whitelist, err := labels.ConvertSelectorToLabelsMap(s.byNamespace[a.Namespace])
	if err != nil {
		return unreasoned(err.Error())
	}
	for k, v := range pod.Spec.NodeSelector {
		if allowed, ok := whitelist[k]; len(whitelist) > 0 && (!ok || allowed != v) {
			return forbid(a, "pod node label selector labels conflict with its namespace whitelist")
		}
	}
	return nil
}

// podTolerationRestriction gives the pods of a namespace its tolerations and
// lets them have no others than those of its whitelist.
func podTolerationRestriction(c *Config, d deps) (*plugin, error) {
	t := tolerations{deps: d}
	if _, err := c.config("PodTolerationRestriction", kinds{"podtolerationrestriction.admission.k8s.io/v1alpha1": "Configuration"}, &t.conf); err != nil {
		return nil, err
	}
	var errs field.ErrorList
	root := field.NewPath("podtolerationrestriction")
	for name, list := range map[string][]corev1.Toleration{"default": t.conf.Default, "whitelist": t.conf.Whitelist} {
		for i := range list {
			if op := list[i].Operator; op != "" && op != corev1.TolerationOpEqual && op != corev1.TolerationOpExists {
				errs = append(errs, field.NotSupported(root.Child(name).Index(i).Child("operator"), op, []string{string(corev1.TolerationOpEqual), string(corev1.TolerationOpExists)}))
			}
		}
	}
	if len(errs) > 0 {
		return nil, badConfig("PodTolerationRestriction", fmt.Errorf("invalid config: %v", errs))
	}
	return &plugin{ops: ops(admission.Create, admission.Update), admit: t.admit, validate: t.validate}, nil
}

type tolerations struct {
	deps
	conf struct {
		Kind       string              `json:"kind"`
		APIVersion string              `json:"apiVersion"`
		Default    []corev1.Toleration `json:"default"`
		Whitelist  []corev1.Toleration `json:"whitelist"`
	}
}

// of reads a namespace's list; without one, the cluster's. whose says which.
func (t *tolerations) of(ctx context.Context, a *admission.Attributes, annotation string, otherwise []corev1.Toleration) (list []corev1.Toleration, whose string, err error) {
	ns, err := get(ctx, client.Namespaces.In(t.door, ""), a.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, "", err
	}
	if err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	text, ok := ns.Annotations[annotation]
	switch {
	case !ok:
		return otherwise, "cluster", nil
	case text == "":
		return nil, "namespace", nil
	}
	var out []corev1.Toleration
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, "", unreasoned(err.Error())
	}
	return out, "namespace", nil
}

func (t *tolerations) admit(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	all := slices.Clone(pod.Spec.Tolerations)
	if a.Operation == admission.Create {
		given, _, err := t.of(ctx, a, defaultTolerationsAnnotation, t.conf.Default)
		if err != nil {
			return err
		}
		all = append(all, given...)
	}
	if class := qosOf(pod); class != corev1.PodQOSBestEffort {
		all = append(all, corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	pod.Spec.Tolerations = merged(all)
	return t.validate(ctx, a)
}

// merged leaves out tolerations that another covers.
func merged(list []corev1.Toleration) []corev1.Toleration {
	var out []corev1.Toleration
next:
	for i := range list {
		for j := range list {
			if i != j && covers(&list[j], &list[i]) && (j < i || !covers(&list[i], &list[j])) {
				continue next
			}
		}
		out = append(out, list[i])
	}
	return out
}

// covers says that what by tolerates takes in all that t does.
func covers(by, t *corev1.Toleration) bool {
	if equality.Semantic.DeepEqual(*by, *t) {
		return true
	}
	if by.Key != t.Key && by.Key != "" || by.Effect != t.Effect && by.Effect != "" {
		return false
	}
	if by.Effect == corev1.TaintEffectNoExecute && by.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *by.TolerationSeconds < *t.TolerationSeconds) {
		return false
	}
	switch by.Operator {
	case corev1.TolerationOpEqual, "":
		return t.Operator == corev1.TolerationOpEqual && by.Value == t.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

func (t *tolerations) validate(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok || len(pod.Spec.Tolerations) == 0 {
		return nil
	}
	allowed, whose, err := t.of(ctx, a, tolerationsWhitelist, t.conf.Whitelist)
	if err != nil {
		return err
	}
	if len(allowed) == 0 {
		return nil
	}
	for i := range pod.Spec.Tolerations {
		if !slices.ContainsFunc(allowed, func(w corev1.Toleration) bool { return covers(&w, &pod.Spec.Tolerations[i]) }) {
			return unreasoned("pod tolerations (possibly merged with namespace default tolerations) conflict with its " + whose + " whitelist")
		}
	}
	return nil
}

// qosOf is enough of a pod's class of service to tell the best-effort ones.
func qosOf(pod *corev1.Pod) corev1.PodQOSClass {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			r := &list[i].Resources
			for _, l := range []corev1.ResourceList{r.Requests, r.Limits} {
				for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					if q, ok := l[name]; ok && !q.IsZero() {
						return corev1.PodQOSBurstable
					}
				}
			}
		}
	}
	return corev1.PodQOSBestEffort
}
