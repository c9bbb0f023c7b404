// Package podresources tells monitoring agents on the node which CPUs, memory
// and devices each container has (pod resources API v1), over a socket that
// only root reaches.
package podresources

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/coxswain/cox/kubelet/devices"
	"github.com/coxswain/cox/kubelet/dra"
	"github.com/coxswain/cox/kubelet/exclusive"
	"github.com/coxswain/cox/kubelet/numa"
)

// Server answers. All fields must be set.
type Server struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	// Pods lists the pods that run, or may run, on the node.
	Pods      func() []*corev1.Pod
	Exclusive *exclusive.Manager
	Devices   *devices.Manager
	Claims    *dra.Manager
}

// Run serves on the socket until ctx ends.
func (s *Server) Run(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return fmt.Errorf("pod resources API: %w", err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("pod resources API: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("pod resources API: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("pod resources API: %w", err)
	}
	g := grpc.NewServer()
	podresourcesv1.RegisterPodResourcesListerServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("pod resources API: %w", err)
	}
	return nil
}

// List tells what all pods have.
func (s *Server) List(context.Context, *podresourcesv1.ListPodResourcesRequest) (*podresourcesv1.ListPodResourcesResponse, error) {
	out := &podresourcesv1.ListPodResourcesResponse{}
	for _, p := range s.Pods() {
		if active(p) {
			out.PodResources = append(out.PodResources, s.pod(p))
		}
	}
	return out, nil
}

// Get tells what one pod has.
func (s *Server) Get(_ context.Context, r *podresourcesv1.GetPodResourcesRequest) (*podresourcesv1.GetPodResourcesResponse, error) {
	for _, p := range s.Pods() {
		if p.Name == r.PodName && p.Namespace == r.PodNamespace {
			if !active(p) {
				return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s is not active", r.PodName, r.PodNamespace)
			}
			return &podresourcesv1.GetPodResourcesResponse{PodResources: s.pod(p)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", r.PodName, r.PodNamespace)
}

func active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
}

func (s *Server) pod(p *corev1.Pod) *podresourcesv1.PodResources {
	out := &podresourcesv1.PodResources{Name: p.Name, Namespace: p.Namespace}
	for i := range p.Spec.InitContainers {
		// Others hold nothing any more once the pod has started.
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out.Containers = append(out.Containers, s.container(p, c))
		}
	}
	for i := range p.Spec.Containers {
		out.Containers = append(out.Containers, s.container(p, &p.Spec.Containers[i]))
	}
	return out
}

func (s *Server) container(p *corev1.Pod, c *corev1.Container) *podresourcesv1.ContainerResources {
	out := &podresourcesv1.ContainerResources{Name: c.Name}
	if set, own := s.Exclusive.CPUs(p.UID, c.Name); own {
		out.CpuIds = ids(set.List())
	}
	blocks, _ := s.Exclusive.Memory(p.UID, c.Name)
	out.Memory = memory(blocks)
	for name, list := range s.Devices.Of(p.UID, c.Name) {
		out.Devices = append(out.Devices, s.devices(name, list)...)
	}
	for _, r := range s.Claims.Of(p, c) {
		d := &podresourcesv1.DynamicResource{ClaimName: r.Claim, ClaimNamespace: r.Namespace}
		for driver, list := range r.Devices {
			for _, dev := range list {
				cr := &podresourcesv1.ClaimResource{DriverName: driver, PoolName: dev.Pool, DeviceName: dev.Name, ShareId: dev.Share}
				for _, name := range dev.CDI {
					cr.CdiDevices = append(cr.CdiDevices, &podresourcesv1.CDIDevice{Name: name})
				}
				d.ClaimResources = append(d.ClaimResources, cr)
			}
		}
		out.DynamicResources = append(out.DynamicResources, d)
	}
	return out
}

// devices groups the devices of a resource by the nodes that they are near to.
func (s *Server) devices(resource string, list []string) []*podresourcesv1.ContainerDevices {
	by := map[numa.Mask]*podresourcesv1.ContainerDevices{}
	var out []*podresourcesv1.ContainerDevices
	slices.Sort(list)
	for _, id := range list {
		near := s.Devices.Nodes(resource, id)
		d := by[near]
		if d == nil {
			d = &podresourcesv1.ContainerDevices{ResourceName: resource}
			if near != 0 {
				d.Topology = topology(near.List())
			}
			by[near] = d
			out = append(out, d)
		}
		d.DeviceIds = append(d.DeviceIds, id)
	}
	return out
}

// GetAllocatableResources tells what there is to give away.
func (s *Server) GetAllocatableResources(context.Context, *podresourcesv1.AllocatableResourcesRequest) (*podresourcesv1.AllocatableResourcesResponse, error) {
	cpus, blocks := s.Exclusive.Allocatable()
	out := &podresourcesv1.AllocatableResourcesResponse{CpuIds: ids(cpus.List()), Memory: memory(blocks)}
	for name, list := range s.Devices.All() {
		out.Devices = append(out.Devices, s.devices(name, list)...)
	}
	slices.SortStableFunc(out.Devices, func(a, b *podresourcesv1.ContainerDevices) int {
		return strings.Compare(a.ResourceName, b.ResourceName)
	})
	return out, nil
}

func ids(list []int) []int64 {
	out := make([]int64, len(list))
	for i, n := range list {
		out[i] = int64(n)
	}
	return out
}

func memory(blocks []exclusive.Block) []*podresourcesv1.ContainerMemory {
	var out []*podresourcesv1.ContainerMemory
	for _, b := range blocks {
		out = append(out, &podresourcesv1.ContainerMemory{MemoryType: string(b.Type), Size: b.Size, Topology: topology(b.Nodes)})
	}
	return out
}

func topology(nodes []int) *podresourcesv1.TopologyInfo {
	t := &podresourcesv1.TopologyInfo{}
	for _, n := range nodes {
		t.Nodes = append(t.Nodes, &podresourcesv1.NUMANode{ID: int64(n)})
	}
	return t
}
