package kubelet

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/wiretest"
)

// FuzzRuntime plans for a pod by what a runtime says of it: whatever that is,
// there is a plan and a status, which names each of the pod's containers, and
// nothing is done to what the runtime did not name.
func FuzzRuntime(f *testing.F) {
	running := &runtimeapi.ContainerStatus{
		Id: "1", State: runtimeapi.ContainerState_CONTAINER_RUNNING, StartedAt: noon.UnixNano(), Labels: map[string]string{labelContainer: "a"},
		Annotations: map[string]string{annotationRestarts: "-99999999999", annotationResources: `{"limits":{"cpu":"1"}}`},
		Image:       &runtimeapi.ImageSpec{UserSpecifiedImage: "i"}, User: &runtimeapi.ContainerUser{}, StopSignal: 77,
	}
	exited := &runtimeapi.ContainerStatus{Id: "2", State: runtimeapi.ContainerState_CONTAINER_EXITED, FinishedAt: -1 << 63, ExitCode: -5, Labels: map[string]string{labelContainer: "b"}, Mounts: []*runtimeapi.Mount{{}}}
	odd := &runtimeapi.ContainerStatus{Id: "1", State: 9, CreatedAt: 1<<63 - 1, Labels: map[string]string{labelContainer: "init"}}
	ready := &runtimeapi.PodSandboxStatus{Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Attempt: 1<<32 - 1}, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1", AdditionalIps: []*runtimeapi.PodIP{{Ip: "x"}}}}
	info := &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady}}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "x"}, {Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}},
	}
	f.Add(wiretest.Marshal(f, running), wiretest.Marshal(f, exited), wiretest.Marshal(f, ready), wiretest.Marshal(f, info), uint8(0))
	f.Add(wiretest.Marshal(f, odd), wiretest.Marshal(f, running), wiretest.Marshal(f, &runtimeapi.PodSandboxStatus{Id: "s", State: 1}), []byte{}, uint8(1))
	f.Add(wiretest.Marshal(f, exited), wiretest.Marshal(f, exited), []byte{}, []byte{}, uint8(2))
	f.Fuzz(func(t *testing.T, a, b, c, d []byte, how uint8) {
		var one, two runtimeapi.ContainerStatus
		var sb runtimeapi.PodSandboxStatus
		var info runtimeapi.StatusResponse
		if proto.Unmarshal(a, &one) != nil || proto.Unmarshal(b, &two) != nil || proto.Unmarshal(c, &sb) != nil || proto.Unmarshal(d, &info) != nil {
			return
		}
		policies := []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
		s := newScene(policies[how%3], inits("init"), app("a", "b"), func(s *scene) {
			s.Sandboxes = append(s.Sandboxes, &sb)
			s.Containers = append(s.Containers, newInstance(&one, sb.Id), newInstance(&two, "gone"))
		})
		if how&4 != 0 {
			deleted(30)(s)
		}
		p := makePlan(&s.podState)
		for _, k := range p.Kill {
			if !slices.Contains([]string{one.Id, two.Id}, k.ID) {
				t.Errorf("kills %q", k.ID)
			}
		}
		st := makeStatus(&s.podState, &p, nodeFacts{IPs: []string{"192.0.2.1"}, Runtime: "r"})
		if len(st.ContainerStatuses) != 2 || len(st.InitContainerStatuses) != 1 || st.Phase == "" {
			t.Errorf("%+v", st)
		}
		n := &nodeManager{}
		n.takeFeatures(&info)
		if len(n.handlers) != len(info.RuntimeHandlers) {
			t.Errorf("%d handlers of %d", len(n.handlers), len(info.RuntimeHandlers))
		}
		runtimeProblem(&info, nil)
	})
}

// TestFeaturesUnsaid: a runtime need not say what its handlers can do.
func TestFeaturesUnsaid(t *testing.T) {
	n := &nodeManager{}
	n.takeFeatures(&runtimeapi.StatusResponse{RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "x"}, {Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}}})
	if len(n.handlers) != 2 || n.handlers[1].Features != nil || !*n.handlers[0].Features.UserNamespaces || n.ownUsers("x") || !n.ownUsers("") {
		t.Errorf("%+v", n.handlers)
	}
}
