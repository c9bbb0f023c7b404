package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func service() *api.Kind {
	k := row("Service", "services", "service", true, "services/specs", "svc")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.Service](), api.New[corev1.ServiceList]()
	k.Categories = []string{"all"}
	k.Strategy = api.Strategy{
		Default:             api.On(defaultService),
		PrepareCreate:       api.On(prepareServiceCreate),
		PrepareUpdate:       api.On2(prepareServiceUpdate),
		Validate:            api.Check(validateService),
		ValidateUpdate:      api.Check2(validateServiceUpdate),
		ValidateName:        apivalidation.NameIsDNSLabel,
		Warnings:            warnings(serviceWarnings),
		AllowCreateOnUpdate: true,
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(s, old *corev1.Service) { s.Spec = *old.Spec.DeepCopy() }, validateServiceStatus),
		"proxy":  proxy("ServiceProxyOptions"),
	}
	made := k.Subresources["status"].Object
	made.AllowCreateOnUpdate = true
	made.Validate = api.Check(func(s *corev1.Service) field.ErrorList {
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.Type != corev1.ServiceTypeExternalName { // none are allocated here
			return field.ErrorList{field.Required(specPath.Child("clusterIPs"), "")}
		}
		return nil
	})
	selectable(k, func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	}, "spec.clusterIP", "spec.type")
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Type", doc["type"]),
		printing.String("Cluster-IP", doc["clusterIP"]),
		printing.String("External-IP", doc["externalIPs"]),
		printing.String("Port(s)", doc["ports"]),
		printing.AgeColumn(),
		printing.Wide(printing.String("Selector", doc["selector"])),
	}
	k.Cells = api.Cells(serviceCells)
	return k
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	def(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	if spec.SessionAffinity == corev1.ServiceAffinityNone {
		spec.SessionAffinityConfig = nil
	} else if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		c := spec.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			timeout := int32(10800)
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
	def(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		def(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	if external {
		def(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		defPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		defPtr(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				defPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func serviceCells(s *corev1.Service) []any {
	ip := printing.None
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	return []any{
		s.Name, string(s.Spec.Type), ip, externalIPs(s), servicePorts(s.Spec.Ports),
		printing.Age(s.CreationTimestamp), printing.Labels(s.Spec.Selector),
	}
}

func servicePorts(ports []corev1.ServicePort) string {
	out := make([]string, len(ports))
	for i, p := range ports {
		if p.NodePort > 0 {
			out[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		} else {
			out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		}
	}
	return printing.Or(strings.Join(out, ","), printing.None)
}

func externalIPs(s *corev1.Service) string {
	own := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		lb := sets.New[string]()
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				lb.Insert(in.IP)
			} else if in.Hostname != "" {
				lb.Insert(in.Hostname)
			}
		}
		all := append(sets.List(lb), s.Spec.ExternalIPs...)
		return printing.Or(strings.Join(all, ","), "<pending>")
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return printing.Or(own, printing.None)
	}
	return printing.Unknown
}

func prepareServiceCreate(s *corev1.Service) {
	s.Status = corev1.ServiceStatus{}
	settleClusterIPs(s, nil)
}

// settleClusterIPs lets clients that know only clusterIP, or patch only it,
// change clusterIPs with it.
func settleClusterIPs(s, old *corev1.Service) {
	spec := &s.Spec
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
		return
	}
	if old == nil || spec.ClusterIP == old.Spec.ClusterIP || !slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
		return
	}
	spec.ClusterIPs = nil
	if spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// prepareServiceUpdate keeps the status and, where the type is unchanged or
// still wants them, the addresses and ports that a client left out.
func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = *old.Status.DeepCopy()
	settleClusterIPs(s, old)
	dropTypeDependent(s, old)
}
