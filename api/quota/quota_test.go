package quota

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(pairs...) }
}

func TestUsage(t *testing.T) {
	now := time.Now()
	earlier := metav1.NewTime(now.Add(-time.Minute))
	pods, services, claims := schema.GroupResource{Resource: "pods"}, schema.GroupResource{Resource: "services"}, schema.GroupResource{Resource: "persistentvolumeclaims"}
	ports := []corev1.ServicePort{{Port: 1}, {Port: 2, NodePort: 30000}}
	for name, c := range map[string]struct {
		gr   schema.GroupResource
		obj  any
		want string
	}{
		"plain pod": {pods, pod(), "count/pods=1,pods=1"},
		"pod that asks": {pods, pod(requests("cpu", "100m", "memory", "1Gi", "example.com/x", "2")),
			"count/pods=1,cpu=100m,memory=1Gi,pods=1,requests.cpu=100m,requests.example.com/x=2,requests.memory=1Gi"},
		"pod with limits": {pods, pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = list("cpu", "1") }),
			"count/pods=1,limits.cpu=1,pods=1"},
		"finished pod": {pods, pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "count/pods=1"},
		"overdue pod": {pods, pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &earlier, ptr.To(int64(1))
		}), "count/pods=1"},
		"cluster ip":    {services, &corev1.Service{Spec: corev1.ServiceSpec{Ports: ports}}, "count/services=1,services=1"},
		"node port":     {services, &corev1.Service{Spec: corev1.ServiceSpec{Type: "NodePort", Ports: ports}}, "count/services=1,services=1,services.nodeports=2"},
		"load balancer": {services, &corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", Ports: ports}}, "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"},
		"without node ports": {services, &corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", AllocateLoadBalancerNodePorts: ptr.To(false), Ports: ports}},
			"count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"},
		"claim": {claims, &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("gold"),
			Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}}},
			"count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"},
		"devices": {schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}, &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", AllocationMode: "ExactCount", Count: 2}},
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "tin", AllocationMode: "All"}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gold", Count: 1}, {DeviceClassName: "gold", Count: 3}, {DeviceClassName: "lead"}}},
		}}}}, "count/resourceclaims.resource.k8s.io=1,gold.deviceclass.resource.k8s.io/devices=5,lead.deviceclass.resource.k8s.io/devices=1," +
			"requests.deviceclass.resource.kubernetes.io/gold=5,requests.deviceclass.resource.kubernetes.io/lead=1,requests.deviceclass.resource.kubernetes.io/tin=32,tin.deviceclass.resource.k8s.io/devices=32"},
		"secret":     {schema.GroupResource{Resource: "secrets"}, &corev1.Secret{}, "count/secrets=1,secrets=1"},
		"deployment": {schema.GroupResource{Group: "apps", Resource: "deployments"}, nil, "count/deployments.apps=1"},
	} {
		usage := Counter{Now: now}.Usage(c.gr, c.obj)
		if got := Text(usage); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
		for n := range usage {
			if all := Resources(n); !slices.Contains(all, c.gr) {
				t.Errorf("%s is said to be about %v", n, all)
			}
		}
	}
}

// A device counts once under every name of its class, whether it was asked for
// by a claim, by the class's extended resource, or by both.
func TestDeviceNames(t *testing.T) {
	now := time.Now()
	claim := func(special bool, count int64) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n"}}
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", Count: count}}}
		if special {
			c.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
			c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "1", Controller: ptr.To(true)}}
		}
		return c
	}
	named := func(uid string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := pod(change...)
		p.UID = types.UID(uid)
		return p
	}
	const devices, implicit, explicit = "gold.deviceclass.resource.k8s.io/devices=", "requests.deviceclass.resource.kubernetes.io/gold=", "requests.example.com/gold="
	for name, c := range map[string]struct {
		claim *resourcev1.ResourceClaim
		pod   *corev1.Pod
		want  string
	}{
		"of a user":                {claim(false, 2), nil, devices + "2," + implicit + "2," + explicit + "2"},
		"for the resource":         {claim(true, 2), named("1", requests("example.com/gold", "2")), devices + "2," + implicit + "2"},
		"for the class's name":     {claim(true, 2), named("1", requests("deviceclass.resource.kubernetes.io/gold", "2")), devices + "2," + explicit + "2"},
		"for both":                 {claim(true, 3), named("1", requests("example.com/gold", "2", "deviceclass.resource.kubernetes.io/gold", "1")), devices + "3," + implicit + "2," + explicit + "1"},
		"for a pod that has ended": {claim(true, 2), named("1", requests("example.com/gold", "2"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), devices + "2," + implicit + "2," + explicit + "2"},
		"for an earlier pod":       {claim(true, 2), named("2", requests("example.com/gold", "2")), devices + "2," + implicit + "2," + explicit + "2"},
		"of a user for a pod":      {claim(false, 2), named("1", requests("example.com/gold", "2")), devices + "2," + implicit + "2," + explicit + "2"},
	} {
		counter := Counter{Now: now,
			Class: func(string) *resourcev1.DeviceClass {
				return &resourcev1.DeviceClass{Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gold")}}
			},
			Pod: func(string, string) *corev1.Pod { return c.pod },
		}
		if got := Text(counter.Usage(ResourceClaims, c.claim)); got != "count/resourceclaims.resource.k8s.io=1,"+c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestScopes(t *testing.T) {
	term := corev1.PodAffinityTerm{Namespaces: []string{"x"}}
	high := func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }
	deadline := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(1)) }
	crossing := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: term}}}}
	}
	changing := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("wanted")},
		Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: ptr.To("current"),
			ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "target"}}}
	for _, c := range []struct {
		scope  corev1.ResourceQuotaScope
		op     corev1.ScopeSelectorOperator
		values []string
		obj    any
		want   bool
	}{
		{corev1.ResourceQuotaScopeTerminating, "Exists", nil, pod(deadline), true},
		{corev1.ResourceQuotaScopeTerminating, "Exists", nil, pod(), false},
		{corev1.ResourceQuotaScopeNotTerminating, "Exists", nil, pod(), true},
		{corev1.ResourceQuotaScopeBestEffort, "Exists", nil, pod(), true},
		{corev1.ResourceQuotaScopeBestEffort, "Exists", nil, pod(requests("cpu", "1")), false},
		{corev1.ResourceQuotaScopeNotBestEffort, "Exists", nil, pod(requests("cpu", "1")), true},
		{corev1.ResourceQuotaScopePriorityClass, "In", []string{"high"}, pod(high), true},
		{corev1.ResourceQuotaScopePriorityClass, "NotIn", []string{"high"}, pod(high), false},
		{corev1.ResourceQuotaScopePriorityClass, "Exists", nil, pod(), false},
		{corev1.ResourceQuotaScopePriorityClass, "DoesNotExist", nil, pod(), true},
		{corev1.ResourceQuotaScopeCrossNamespacePodAffinity, "Exists", nil, pod(crossing), true},
		{corev1.ResourceQuotaScopeCrossNamespacePodAffinity, "Exists", nil, pod(), false},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "In", []string{"fast"},
			&corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("fast")}}, true},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "In", []string{"wanted"}, changing, true},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "In", []string{"current"}, changing, true},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "In", []string{"target"}, changing, true},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "In", []string{"other"}, changing, false},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "DoesNotExist", nil, changing, false},
		{corev1.ResourceQuotaScopeVolumeAttributesClass, "DoesNotExist", nil, &corev1.PersistentVolumeClaim{}, true},
		{corev1.ResourceQuotaScopeTerminating, "Exists", nil, &corev1.Secret{}, false},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{
			MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: c.scope, Operator: c.op, Values: c.values}}}}}
		if got := Matches(q, c.obj); got != c.want {
			t.Errorf("%s %s %v of %T: got %v", c.scope, c.op, c.values, c.obj, got)
		}
	}
}

func TestCharge(t *testing.T) {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}}
	q.Spec.Hard = list("pods", "2", "requests.cpu", "1", "secrets", "5", "configmaps", "1")
	q.Status = corev1.ResourceQuotaStatus{Hard: list("pods", "2", "requests.cpu", "1", "secrets", "5"), Used: list("pods", "2", "requests.cpu", "300m")}
	for name, c := range map[string]struct {
		delta      corev1.ResourceList
		used, fail string
	}{
		"too many":      {list("pods", "1", "requests.cpu", "100m"), "", "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"},
		"fits":          {list("requests.cpu", "700m"), "pods=2,requests.cpu=1", ""},
		"shrinks":       {list("pods", "-1"), "", ""},
		"not limited":   {list("services", "1"), "", ""},
		"not counted":   {list("secrets", "1"), "", "status unknown for quota: q, resources: secrets"},
		"not known yet": {list("configmaps", "1"), "", ""},
	} {
		used, err := Charge(q, c.delta)
		if got := Text(used); got != c.used || (err == nil) != (c.fail == "") || err != nil && err.Error() != c.fail {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
	}
	if got := Text(q.Status.Used); got != "pods=2,requests.cpu=300m" {
		t.Errorf("the quota was changed: %s", got)
	}
	missing := Unstated(&corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: list("limits.cpu", "1", "requests.memory", "1", "pods", "1")}}, pod(requests("memory", "1")))
	if missing != "limits.cpu for: a" {
		t.Errorf("got %q", missing)
	}
}
