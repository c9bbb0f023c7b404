package check_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/check"
)

// partOf is one field of what is shown of a value.
func partOf(t *testing.T, v any, name string) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(check.Shown(v))
	if err != nil {
		t.Fatal(err)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		t.Fatal(err)
	}
	return parts[name]
}

// The sources of a volume stand in the order of upstream's internal type.
func TestShownOrder(t *testing.T) {
	data, err := json.Marshal(check.Shown(corev1.PersistentVolumeSource{}))
	if err != nil {
		t.Fatal(err)
	}
	const start = `{"GCEPersistentDisk":null,"AWSElasticBlockStore":null,"HostPath":null,"Glusterfs":null,"NFS":null,"RBD":null,"Quobyte":null,"ISCSI":null,`
	if !strings.HasPrefix(string(data), start) || strings.Count(string(data), "null") != reflect.TypeFor[corev1.PersistentVolumeSource]().NumField() {
		t.Errorf("shown as %s", data)
	}
}

// What errors show of API values: every field by its Go name, metadata among
// the fields, and what knows its own JSON (quantities, ports, raw parameters,
// selectors) as it is.
func TestShown(t *testing.T) {
	for want, v := range map[string]any{
		`null`: (*corev1.Taint)(nil),
		`{"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}`:                              corev1.Taint{Key: "a", Effect: "NoSchedule"},
		`[{"Type":"InternalIP","Address":"1.2.3.4"}]`:                                                []corev1.NodeAddress{{Type: "InternalIP", Address: "1.2.3.4"}},
		`{"Type":"Bogus","RollingUpdate":{"MaxUnavailable":"25%","MaxSurge":1}}`:                     appsv1.DeploymentStrategy{Type: "Bogus", RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromString("25%")), MaxSurge: ptr.To(intstr.FromInt32(1))}},
		`{"Requests":["r"],"Opaque":{"Driver":"d","Parameters":{"a":1}}}`:                            resourcev1.DeviceClaimConfiguration{Requests: []string{"r"}, DeviceConfiguration: resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: "d", Parameters: runtime.RawExtension{Raw: []byte(`{"a":1}`)}}}},
		`{"labels":{"a":"b"},"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}`: resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}},
		`{"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}`:                    resourcev1.ResourceClaimTemplateSpec{},
		`{"HostNetwork":true,"HostPID":false,"HostIPC":false,"ShareProcessNamespace":null,"HostUsers":null,"SELinuxOptions":null,"WindowsOptions":null,"RunAsUser":null,"RunAsGroup":null,"RunAsNonRoot":null,"SupplementalGroups":null,"SupplementalGroupsPolicy":null,"FSGroup":1,"FSGroupChangePolicy":null,"Sysctls":null,"SeccompProfile":null,"AppArmorProfile":null,"SELinuxChangePolicy":null}`: partOf(t, corev1.PodSpec{HostNetwork: true, SecurityContext: &corev1.PodSecurityContext{FSGroup: ptr.To[int64](1)}}, "SecurityContext"),
		`["a"]`: []string{"a"},
		`{"Name":"c","Counters":{"a":{"Value":"1Gi"},"b":{"Value":"2"}}}`: resourcev1.CounterSet{Name: "c", Counters: map[string]resourcev1.Counter{"b": {Value: resource.MustParse("2")}, "a": {Value: resource.MustParse("1Gi")}}},
	} {
		got, err := json.Marshal(check.Shown(v))
		if err != nil || string(got) != want {
			t.Errorf("%T is shown as %s (%v), want %s", v, got, err, want)
		}
	}
}
