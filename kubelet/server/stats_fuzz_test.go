package server

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzStats sums up what a runtime says that a pod uses: whatever that is, it
// can be told on.
func FuzzStats(f *testing.F) {
	most := &runtimeapi.UInt64Value{Value: 1<<64 - 1}
	cpu := &runtimeapi.CpuUsage{Timestamp: 1<<63 - 1, UsageCoreNanoSeconds: most}
	sb := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Uid: "u"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: cpu, Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: most}, Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "e"}, Interfaces: []*runtimeapi.NetworkInterfaceUsage{{}}},
			Process:    &runtimeapi.ProcessUsage{ProcessCount: most},
			Containers: []*runtimeapi.ContainerStats{{}, {Attributes: &runtimeapi.ContainerAttributes{Id: "c"}, Cpu: cpu, WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: most}, Swap: &runtimeapi.SwapUsage{}}},
		},
	}
	for _, m := range []*runtimeapi.PodSandboxStats{sb, {}, {Linux: &runtimeapi.LinuxPodSandboxStats{}}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s := &Server{}
		for _, text := range [][]byte{a, b} {
			var sb runtimeapi.PodSandboxStats
			if proto.Unmarshal(text, &sb) != nil {
				return
			}
			keys := map[string]bool{}
			p := s.podStats(&sb, keys, false)
			if _, err := json.Marshal(p); err != nil {
				t.Errorf("%v: %v", &sb, err)
			}
			if len(p.Containers) != len(sb.GetLinux().GetContainers()) {
				t.Errorf("%d containers of %d", len(p.Containers), len(sb.GetLinux().GetContainers()))
			}
		}
	})
}
