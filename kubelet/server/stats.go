package server

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"golang.org/x/sys/unix"
)

// rates turns CPU counters into rates: nothing is sampled in the background,
// a rate is that since the last question that is at least a second old.
type rates struct {
	mu   sync.Mutex
	last map[string]sample
}

type sample struct {
	at          time.Time
	nanos, rate uint64
	known       bool
}

// minInterval is the shortest time that a rate is computed over.
const minInterval = time.Second

// of returns the nanocores of what key names, if known, given its counter.
func (r *rates) of(key string, at time.Time, nanos uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]sample{}
	}
	s, ok := r.last[key]
	switch {
	case !ok || nanos < s.nanos: // new, or started again
		r.last[key] = sample{at: at, nanos: nanos}
		return nil
	case at.Sub(s.at) >= minInterval:
		s = sample{at: at, nanos: nanos, known: true, rate: uint64(float64(nanos-s.nanos) / at.Sub(s.at).Seconds())}
		r.last[key] = s
	}
	if !s.known {
		return nil
	}
	rate := s.rate
	return &rate
}

// keep forgets all but the keys.
func (r *rates) keep(keys map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.last {
		if !keys[k] {
			delete(r.last, k)
		}
	}
}

// refOf reads the pod that a container or sandbox belongs to from the labels
// that every kubelet gives them.
func refOf(labels map[string]string) stats.PodReference {
	return stats.PodReference{
		Name: labels["io.kubernetes.pod.name"], Namespace: labels["io.kubernetes.pod.namespace"], UID: labels["io.kubernetes.pod.uid"],
	}
}

func uid(s string) types.UID { return types.UID(s) }

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	onlyCPUAndMemory, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory"))
	sum, err := s.collect(r.Context(), onlyCPUAndMemory)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, sum)
}

// collect asks the runtime and the kernel.
func (s *Server) collect(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error) {
	res, err := s.cfg.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("the container runtime's statistics: %w", err)
	}
	sum := &stats.Summary{Node: s.nodeStats(ctx, onlyCPUAndMemory), Pods: []stats.PodStats{}}
	known := map[string]*corev1.Pod{}
	for _, p := range s.cfg.Node.PodList() {
		known[string(p.UID)] = p
	}
	keys := map[string]bool{"node": true}
	for _, sb := range res.Stats {
		if sb.GetLinux() == nil {
			continue
		}
		p := s.podStats(sb, keys, onlyCPUAndMemory)
		pod := known[p.PodRef.UID]
		if pod != nil && pod.Status.StartTime != nil {
			p.StartTime = *pod.Status.StartTime
		}
		if !onlyCPUAndMemory && pod != nil {
			s.podFiles(&p)
			p.VolumeStats = append(p.VolumeStats, s.cfg.Node.VolumeStats(ctx, pod)...)
		}
		sum.Pods = append(sum.Pods, p)
	}
	s.cpu.keep(keys)
	sort.Slice(sum.Pods, func(i, j int) bool {
		a, b := sum.Pods[i].PodRef, sum.Pods[j].PodRef
		return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
	})
	return sum, nil
}

func (s *Server) podStats(sb *runtimeapi.PodSandboxStats, keys map[string]bool, onlyCPUAndMemory bool) stats.PodStats {
	l := sb.GetLinux()
	p := stats.PodStats{PodRef: refOf(sb.GetAttributes().GetLabels()), Containers: []stats.ContainerStats{}}
	if p.PodRef.UID == "" {
		m := sb.GetAttributes().GetMetadata()
		p.PodRef = stats.PodReference{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid()}
	}
	p.CPU, p.Memory = s.cpuStats("pod "+sb.GetAttributes().GetId(), l.GetCpu(), keys), memoryStats(l.GetMemory())
	if !onlyCPUAndMemory {
		p.Network = networkStats(l.GetNetwork())
		if n := l.GetProcess().GetProcessCount(); n != nil {
			v := n.Value
			p.ProcessStats = &stats.ProcessStats{ProcessCount: &v}
		}
	}
	for _, c := range l.GetContainers() {
		cs := stats.ContainerStats{
			Name: c.GetAttributes().GetMetadata().GetName(),
			CPU:  s.cpuStats("container "+c.GetAttributes().GetId(), c.GetCpu(), keys), Memory: memoryStats(c.GetMemory()),
		}
		if u := c.GetWritableLayer(); u != nil && !onlyCPUAndMemory {
			cs.Rootfs = &stats.FsStats{Time: stamp(u.Timestamp), UsedBytes: value(u.UsedBytes), InodesUsed: value(u.InodesUsed)}
		}
		if u := c.GetSwap(); u != nil {
			cs.Swap = &stats.SwapStats{Time: stamp(u.Timestamp), SwapUsageBytes: value(u.SwapUsageBytes), SwapAvailableBytes: value(u.SwapAvailableBytes)}
		}
		p.Containers = append(p.Containers, cs)
	}
	sort.Slice(p.Containers, func(i, j int) bool { return p.Containers[i].Name < p.Containers[j].Name })
	return p
}

func stamp(nanos int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanos)) }

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func (s *Server) cpuStats(key string, c *runtimeapi.CpuUsage, keys map[string]bool) *stats.CPUStats {
	if c == nil {
		return nil
	}
	keys[key] = true
	out := &stats.CPUStats{Time: stamp(c.Timestamp), UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds), UsageNanoCores: value(c.UsageNanoCores)}
	if n := c.UsageCoreNanoSeconds; n != nil {
		if rate := s.cpu.of(key, time.Unix(0, c.Timestamp), n.Value); rate != nil {
			out.UsageNanoCores = rate
		}
	}
	return out
}

func memoryStats(m *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: stamp(m.Timestamp), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes), WorkingSetBytes: value(m.WorkingSetBytes),
		RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults),
	}
}

func networkStats(n *runtimeapi.NetworkUsage) *stats.NetworkStats {
	if n == nil {
		return nil
	}
	iface := func(i *runtimeapi.NetworkInterfaceUsage) stats.InterfaceStats {
		return stats.InterfaceStats{Name: i.GetName(), RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
	}
	out := &stats.NetworkStats{Time: stamp(n.Timestamp)}
	if d := n.DefaultInterface; d != nil {
		out.InterfaceStats = iface(d)
		out.Interfaces = append(out.Interfaces, iface(d))
	}
	for _, i := range n.Interfaces {
		out.Interfaces = append(out.Interfaces, iface(i))
	}
	return out
}

// podFiles adds what the pod's files take: the containers' writable layers
// and logs, and its folder of volumes.
func (s *Server) podFiles(p *stats.PodStats) {
	var total, inodes uint64
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
			total += *c.Rootfs.UsedBytes
			if c.Rootfs.InodesUsed != nil {
				inodes += *c.Rootfs.InodesUsed
			}
		}
		ref, err := s.cfg.Node.Container(p.PodRef.Namespace, p.PodRef.Name, p.PodRef.UID, c.Name, false)
		if err != nil {
			continue
		}
		used, n := usage(filepath.Dir(ref.Log))
		c.Logs = fsStats(filepath.Dir(ref.Log))
		if c.Logs != nil {
			c.Logs.UsedBytes, c.Logs.InodesUsed = &used, &n
		}
		total, inodes = total+used, inodes+n
	}
	if s.cfg.RootDir == "" {
		return
	}
	if f := fsStats(s.cfg.RootDir); f != nil {
		dir := filepath.Join(s.cfg.RootDir, "pods", p.PodRef.UID, "volumes", "kubernetes.io~empty-dir")
		volumes, err := os.ReadDir(dir)
		if err == nil {
			for _, v := range volumes {
				used, n := usage(filepath.Join(dir, v.Name()))
				vf := *f
				vf.UsedBytes, vf.InodesUsed = &used, &n
				p.VolumeStats = append(p.VolumeStats, stats.VolumeStats{FsStats: vf, Name: v.Name()})
				total, inodes = total+used, inodes+n
			}
		}
		f.UsedBytes, f.InodesUsed = &total, &inodes
		p.EphemeralStorage = f
	}
}

// usage adds up what the files of a folder take on disk, not leaving its file
// system.
func usage(dir string) (bytes, inodes uint64) {
	var device uint64
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if device == 0 {
			device = uint64(st.Dev)
		}
		if uint64(st.Dev) != device {
			return filepath.SkipDir
		}
		bytes += uint64(st.Blocks) * 512
		inodes++
		return nil
	})
	return bytes, inodes
}

// fsStats describes the file system that holds path.
func fsStats(path string) *stats.FsStats {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil
	}
	size := uint64(st.Bsize)
	capacity, available, used := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, free, inodesUsed := st.Files, st.Ffree, st.Files-st.Ffree
	return &stats.FsStats{
		Time: metav1.Now(), AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed,
	}
}

func (s *Server) nodeStats(ctx context.Context, onlyCPUAndMemory bool) stats.NodeStats {
	n := stats.NodeStats{NodeName: s.cfg.Node.NodeName(), StartTime: metav1.NewTime(s.started)}
	now := time.Now()
	if nanos, boot, err := nodeCPU(); err == nil {
		n.StartTime = metav1.NewTime(boot)
		n.CPU = &stats.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &nanos, UsageNanoCores: s.cpu.of("node", now, nanos)}
	}
	if m, swap, err := nodeMemory(); err == nil {
		n.Memory, n.Swap = m, swap
	}
	if onlyCPUAndMemory {
		return n
	}
	if s.cfg.RootDir != "" {
		n.Fs = fsStats(s.cfg.RootDir)
	}
	n.Network = nodeNetwork()
	n.Rlimit = rlimits()
	if res, err := s.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err == nil {
		n.Runtime = &stats.RuntimeStats{ImageFs: imageFs(res.GetImageFilesystems()), ContainerFs: imageFs(res.GetContainerFilesystems())}
		if n.Runtime.ContainerFs == nil {
			n.Runtime.ContainerFs = n.Runtime.ImageFs
		}
	}
	return n
}

func imageFs(list []*runtimeapi.FilesystemUsage) *stats.FsStats {
	if len(list) == 0 {
		return nil
	}
	f := fsStats(list[0].GetFsId().GetMountpoint())
	if f != nil {
		f.UsedBytes, f.InodesUsed = value(list[0].UsedBytes), value(list[0].InodesUsed)
	}
	return f
}

// nodeCPU reads what all CPUs have worked, in nanoseconds, and the time of
// the boot, from /proc/stat (proc(5)).
func nodeCPU() (nanos uint64, boot time.Time, err error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, boot, err
	}
	defer f.Close()
	const perTick = 10_000_000 // USER_HZ is 100 on every architecture
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		switch {
		case len(fields) > 7 && fields[0] == "cpu":
			for i, v := range fields[1:8] {
				if t, err := strconv.ParseUint(v, 10, 64); err == nil && i != 3 && i != 4 { // idle, iowait
					nanos += t * perTick
				}
			}
		case len(fields) == 2 && fields[0] == "btime":
			if t, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				boot = time.Unix(t, 0)
			}
		}
	}
	return nanos, boot, sc.Err()
}

// nodeMemory reads /proc/meminfo. The working set is what is used and cannot
// be given up at once.
func nodeMemory() (*stats.MemoryStats, *stats.SwapStats, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, nil, err
	}
	v := map[string]uint64{}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				v[strings.TrimSuffix(f[0], ":")] = n << 10
			}
		}
	}
	usage, rss := v["MemTotal"]-v["MemFree"], v["AnonPages"]
	working := usage - min(usage, v["Inactive(file)"])
	available := v["MemTotal"] - min(v["MemTotal"], working)
	free := v["SwapFree"]
	swapped, now := v["SwapTotal"]-min(v["SwapTotal"], free), metav1.Now()
	return &stats.MemoryStats{Time: now, UsageBytes: &usage, WorkingSetBytes: &working, AvailableBytes: &available, RSSBytes: &rss},
		&stats.SwapStats{Time: now, SwapUsageBytes: &swapped, SwapAvailableBytes: &free}, nil
}

// nodeNetwork reads the counters of the physical links from /proc/net/dev.
func nodeNetwork() *stats.NetworkStats {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil
	}
	out := &stats.NetworkStats{Time: metav1.Now()}
	for _, line := range strings.Split(string(b), "\n") {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 16 || name == "lo" || strings.HasPrefix(name, "cox") || strings.HasPrefix(name, "veth") {
			continue
		}
		n := make([]uint64, 16)
		for i := range n {
			n[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
		i := stats.InterfaceStats{Name: name, RxBytes: &n[0], RxErrors: &n[2], TxBytes: &n[8], TxErrors: &n[10]}
		if out.Name == "" {
			out.InterfaceStats = i
		}
		out.Interfaces = append(out.Interfaces, i)
	}
	return out
}

func rlimits() *stats.RlimitStats {
	out := &stats.RlimitStats{Time: metav1.Now()}
	if b, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			out.MaxPID = &n
		}
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		n := int64(si.Procs)
		out.NumOfRunningProcesses = &n
	}
	return out
}
