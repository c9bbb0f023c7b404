package runtime

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lacking says what an answer of a runtime must have and has not, nil for
// nothing: who asks may rely on it. Runtimes are others' programs.
func lacking(reply any) error {
	what := ""
	switch r := reply.(type) {
	case *runtimeapi.ContainerStatusResponse:
		if r.GetStatus().GetId() == "" {
			what = "the status of a container"
		}
	case *runtimeapi.PodSandboxStatusResponse:
		if r.GetStatus().GetId() == "" {
			what = "the status of a sandbox"
		}
	case *runtimeapi.RunPodSandboxResponse:
		if r.GetPodSandboxId() == "" {
			what = "the id of a new sandbox"
		}
	case *runtimeapi.CreateContainerResponse:
		if r.GetContainerId() == "" {
			what = "the id of a new container"
		}
	}
	if what == "" {
		return nil
	}
	return status.Error(codes.Internal, "the container runtime's answer lacks "+what)
}
