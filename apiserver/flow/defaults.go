package flow

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/client"
)

// The kinds that are kept.
var (
	Schemas = client.Kind[*flowcontrolv1.FlowSchema]{
		GroupVersionResource: flowcontrolv1.SchemeGroupVersion.WithResource("flowschemas"), Kind: "FlowSchema",
		New: func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} }, NewList: api.New[flowcontrolv1.FlowSchemaList](),
	}
	Levels = client.Kind[*flowcontrolv1.PriorityLevelConfiguration]{
		GroupVersionResource: flowcontrolv1.SchemeGroupVersion.WithResource("prioritylevelconfigurations"), Kind: "PriorityLevelConfiguration",
		New:     func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList: api.New[flowcontrolv1.PriorityLevelConfigurationList](),
	}
)

func head(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}
}

func level(name string, shares, lendable int32, queues, hand int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{
		NominalConcurrencyShares: &shares, LendablePercent: &lendable,
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
	}
	if queues > 0 {
		l.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{
			Queues: queues, HandSize: hand, QueueLengthLimit: 50,
		}}
	}
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: head(name), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l,
	}}
}

// DefaultLevels are the priority levels of 1.36, made anew by each call.
func DefaultLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	zero := int32(0)
	return []*flowcontrolv1.PriorityLevelConfiguration{
		{ObjectMeta: head("exempt"), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:   flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: &zero, LendablePercent: &zero},
		}},
		level("catch-all", 5, 0, 0, 0),
		level("system", 30, 33, 64, 6),
		level("node-high", 40, 25, 64, 6),
		level("leader-election", 10, 0, 16, 4),
		level("workload-high", 40, 50, 128, 6),
		level("workload-low", 100, 90, 128, 6),
		level("global-default", 20, 50, 128, 6),
	}
}

func groups(names ...string) (out []flowcontrolv1.Subject) {
	for _, n := range names {
		out = append(out, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: n}})
	}
	return out
}

func users(names ...string) (out []flowcontrolv1.Subject) {
	for _, n := range names {
		out = append(out, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: n}})
	}
	return out
}

func account(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{
		Namespace: metav1.NamespaceSystem, Name: name,
	}}
}

func resources(verbs, groups, resources, namespaces []string, cluster bool) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, Namespaces: namespaces, ClusterScope: cluster}
}

var all = []string{"*"}

func everything(subjects []flowcontrolv1.Subject) flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{
		Subjects: subjects, ResourceRules: []flowcontrolv1.ResourcePolicyRule{resources(all, all, all, all, true)},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
	}
}

func schema(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, rules ...flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: head(name), Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence, Rules: rules,
	}}
	if by != "" {
		s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
	}
	return s
}

// DefaultSchemas are the flow schemas of 1.36, made anew by each call.
func DefaultSchemas() []*flowcontrolv1.FlowSchema {
	const byUser, byNamespace = flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
	const manager, scheduler = "system:kube-controller-manager", "system:kube-scheduler"
	use := []string{"get", "create", "update"}
	anyone := groups("system:unauthenticated", "system:authenticated")
	accounts := []flowcontrolv1.Subject{account("*")}
	lease := resources(use, []string{"coordination.k8s.io"}, []string{"leases"}, all, false)
	return []*flowcontrolv1.FlowSchema{
		schema("exempt", "exempt", 1, "", everything(groups("system:masters"))),
		schema("probes", "exempt", 2, "", flowcontrolv1.PolicyRulesWithSubjects{Subjects: anyone, NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}},
		}}),
		schema("system-leader-election", "leader-election", 100, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: users(manager, scheduler), ResourceRules: []flowcontrolv1.ResourcePolicyRule{lease},
		}),
		schema("endpoint-controller", "workload-high", 150, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects:      append(users(manager), account("endpoint-controller"), account("endpointslicemirroring-controller")),
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{resources(use, []string{""}, []string{"endpoints"}, all, false)},
		}),
		schema("workload-leader-election", "leader-election", 200, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: accounts, ResourceRules: []flowcontrolv1.ResourcePolicyRule{lease},
		}),
		schema("system-node-high", "node-high", 400, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: groups("system:nodes"), ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				resources(all, []string{""}, []string{"nodes", "nodes/status"}, all, true),
				resources(all, []string{"coordination.k8s.io"}, []string{"leases"}, all, false),
			},
		}),
		schema("system-nodes", "system", 500, byUser, everything(groups("system:nodes"))),
		schema("kube-controller-manager", "workload-high", 800, byNamespace, everything(users(manager))),
		schema("kube-scheduler", "workload-high", 800, byNamespace, everything(users(scheduler))),
		schema("kube-system-service-accounts", "workload-high", 900, byNamespace, everything(accounts)),
		schema("service-accounts", "workload-low", 9000, byUser, everything(groups("system:serviceaccounts"))),
		schema("global-default", "global-default", 9900, byUser, everything(anyone)),
		schema("catch-all", "catch-all", 10000, byUser, everything(anyone)),
	}
}
