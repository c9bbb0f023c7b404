package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// TestClaimStatus: the parts of a claim's status are for those who have a
// permission for them.
func TestClaimStatus(t *testing.T) {
	b := newBench()
	may := func(user, verb, name string) {
		b.allowed = append(b.allowed, authz.Attributes{User: client.User{Name: user}, Verb: verb, Resource: "resourceclaims", Name: name})
	}
	const driver = "system:serviceaccount:ns:driver"
	may("scheduler", "update", "")
	may(driver, "associated-node:update", "d.example.com")
	may("operator", "arbitrary-node:patch", "d.example.com")
	on := func(node string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	says := func(list ...string) (out []resourcev1.AllocatedDeviceStatus) {
		for _, d := range list {
			out = append(out, resourcev1.AllocatedDeviceStatus{Driver: d, Pool: "p", Device: "d"})
		}
		return out
	}
	const noBinding = `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "system:serviceaccount:ns:driver" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`
	const noDevices = `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission: resourceclaims.resource.k8s.io "d.example.com" is forbidden: User "system:serviceaccount:ns:driver" cannot arbitrary-node:update resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "ns"`
	for _, c := range []struct {
		name, user, node string
		old, new         resourcev1.ResourceClaimStatus
		want             string
	}{
		{"allocation", "scheduler", "", resourcev1.ResourceClaimStatus{}, resourcev1.ResourceClaimStatus{Allocation: on("n")}, ""},
		{"allocation by another", driver, "n", resourcev1.ResourceClaimStatus{}, resourcev1.ResourceClaimStatus{Allocation: on("n")}, noBinding},
		{"reservation by another", driver, "n", resourcev1.ResourceClaimStatus{}, resourcev1.ResourceClaimStatus{ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Name: "x"}}}, noBinding},
		{"nothing", driver, "n", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n")}, ""},
		{"its devices", driver, "n", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, ""},
		{"on its node, but no service account", "somebody", "n", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, `User "somebody" cannot arbitrary-node:update`},
		{"another driver's on its node", driver, "n", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("e.example.com")}, `verb="[associated-node:update arbitrary-node:update]" permission: resourceclaims.resource.k8s.io "e.example.com" is forbidden: User "system:serviceaccount:ns:driver" cannot associated-node:update`},
		{"another node's", driver, "m", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, noDevices},
		{"any node's", "operator", "", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, ""},
		{"removed", driver, "m", resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, resourcev1.ResourceClaimStatus{Allocation: on("n")}, noDevices},
		{"another driver's", "operator", "", resourcev1.ResourceClaimStatus{Allocation: on("n")}, resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("e.example.com")}, `User "operator" cannot`},
		{"freed with what was said", "scheduler", "", resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: says("d.example.com")}, resourcev1.ResourceClaimStatus{}, ""},
	} {
		a := &admission.Attributes{
			Operation: admission.Update, Subresource: "status", Namespace: "ns", Name: "c",
			User:   client.User{Name: c.user, Extra: map[string][]string{authn.ExtraNodeName: {c.node}}},
			Object: &resourcev1.ResourceClaim{Status: c.new}, Old: &resourcev1.ResourceClaim{Status: c.old},
		}
		check(t, c.name, b.run(a, "ResourceClaimStatusAuthorization"), c.want)
	}
}
