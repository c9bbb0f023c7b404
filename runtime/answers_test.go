package runtime

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// empty is a runtime that answers everything, with nothing.
type empty struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (empty) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{}, nil
}

func (empty) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{}, nil
}

func (empty) PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{}}, nil
}

func (empty) RunPodSandbox(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return &runtimeapi.RunPodSandboxResponse{}, nil
}

func (empty) CreateContainer(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return &runtimeapi.CreateContainerResponse{}, nil
}

// TestAnswersThatLack: who asks a runtime gets an error instead of an answer
// without what it is for.
func TestAnswersThatLack(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, empty{})
	go s.Serve(l)
	defer s.Stop()
	r, err := Dial("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, _ := r.CRI()
	ctx := t.Context()
	if _, err := c.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
	for name, ask := range map[string]func() error{
		"container": func() error {
			_, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
			return err
		},
		"sandbox": func() error {
			_, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "s"})
			return err
		},
		"new sandbox":   func() error { _, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{}); return err },
		"new container": func() error { _, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{}); return err },
	} {
		if err := ask(); status.Code(err) != codes.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}
