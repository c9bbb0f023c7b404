package core

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func pod(on podspec.Gates) *api.Kind {
	k := row("Pod", "pods", "pod", true, "pods", "po")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.Pod](), api.New[corev1.PodList]()
	k.Categories = []string{"all"}
	k.Strategy = api.Strategy{
		Default:        api.On(podspec.DefaultPod),
		PrepareCreate:  api.On(func(p *corev1.Pod) { preparePod(p, on) }),
		PrepareUpdate:  api.On2(func(p, old *corev1.Pod) { preparePodUpdate(p, old, on) }),
		Validate:       api.Check(validatePod),
		ValidateUpdate: api.Check2(validatePodUpdate),
		ValidateName:   apivalidation.NameIsDNSSubdomain,
		Warnings:       warnings(podWarnings),
		EarlyWarnings: func(o runtime.Object) []string {
			return podspec.AppArmorWarnings(&o.(*corev1.Pod).Spec, o.(*corev1.Pod).Annotations)
		},
		GracePeriod: func(o runtime.Object, asked *int64) int64 { return podGracePeriod(o.(*corev1.Pod), asked) },
	}
	k.Subresources = podSubresources()
	selectable(k, podFields,
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName")
	spec, stat := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		printing.String("Status", "The aggregate status of the containers in this pod."),
		printing.String("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		printing.AgeColumn(),
		printing.Wide(printing.String("IP", stat["podIP"])),
		printing.Wide(printing.String("Node", spec["nodeName"])),
		printing.Wide(printing.String("Nominated Node", stat["nominatedNodeName"])),
		printing.Wide(printing.String("Readiness Gates", spec["readinessGates"])),
	}
	k.Cells = api.Cells(podCells)
	return k
}

func podSubresources() map[string]api.Subresource {
	statusGVK := schema.GroupVersionKind{Version: "v1", Kind: "Status"}
	stream := func(options string, verbs, methods []string) api.Subresource {
		return api.Subresource{Verbs: verbs, Connect: &api.Connect{Options: gvk(options), Methods: methods}}
	}
	getCreate, getPost := []string{"create", "get"}, []string{"GET", "POST"}
	return map[string]api.Subresource{
		"status": {Object: &api.Strategy{
			PrepareUpdate: api.On2(preparePodStatus), ValidateUpdate: api.Check2(validatePodStatus),
			Resets: []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"},
		}},
		"ephemeralcontainers": {Untabled: true, Object: &api.Strategy{
			PrepareUpdate: api.On2(prepareEphemeralContainers), ValidateUpdate: api.Check2(validateEphemeralUpdate),
		}},
		"resize": {Untabled: true, Object: &api.Strategy{
			PrepareUpdate: api.On2(preparePodResize), ValidateUpdate: api.Check2(validatePodResize),
		}},
		"binding": {Verbs: []string{"create"}, Action: &api.Action{
			GVK: gvk("Binding"), New: api.New[corev1.Binding](), Result: statusGVK,
			Validate: func(in runtime.Object) field.ErrorList { return validateBinding(in.(*corev1.Binding)) },
		}},
		"eviction": {Verbs: []string{"create"}, Action: &api.Action{
			GVK: policyv1.SchemeGroupVersion.WithKind("Eviction"), New: api.New[policyv1.Eviction](), Result: statusGVK,
			Others: []api.Body{{
				GVK: policyv1beta1.SchemeGroupVersion.WithKind("Eviction"), New: api.New[policyv1beta1.Eviction](),
				Convert: func(in runtime.Object) runtime.Object {
					e := in.(*policyv1beta1.Eviction)
					return &policyv1.Eviction{ObjectMeta: e.ObjectMeta, DeleteOptions: e.DeleteOptions}
				},
			}},
		}},
		"log":         stream("PodLogOptions", []string{"get"}, []string{"GET"}),
		"exec":        stream("PodExecOptions", getCreate, getPost),
		"attach":      stream("PodAttachOptions", getCreate, getPost),
		"portforward": stream("PodPortForwardOptions", getCreate, getPost),
		"proxy":       proxy("PodProxyOptions"),
	}
}

func podFields(p *corev1.Pod) fields.Set {
	ips := make([]string, len(p.Status.PodIPs))
	for i := range p.Status.PodIPs {
		ips[i] = p.Status.PodIPs[i].IP
	}
	return fields.Set{
		"spec.nodeName": p.Spec.NodeName, "spec.restartPolicy": string(p.Spec.RestartPolicy),
		"spec.schedulerName": p.Spec.SchedulerName, "spec.serviceAccountName": p.Spec.ServiceAccountName,
		"spec.hostNetwork": strconv.FormatBool(p.Spec.HostNetwork), "status.phase": string(p.Status.Phase),
		"status.podIP": p.Status.PodIP, "status.podIPs": strings.Join(ips, ","),
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podGracePeriod is the time a pod gets to end: none where nothing runs.
func podGracePeriod(p *corev1.Pod, asked *int64) int64 {
	period := int64(0)
	switch {
	case asked != nil:
		period = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	// A negative period, which old objects may hold, ends the pod soon but
	// gracefully.
	if period < 0 {
		return 1
	}
	return period
}

func podWarnings(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	return append(podspec.NameWarnings(p.Name, "the Pod's hostname"), podspec.Warnings(&corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}, nil)...)
}
