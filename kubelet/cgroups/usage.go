package cgroups

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what the processes of a group, and of those below it, have used.
// Counters the kernel does not keep are 0.
type Usage struct {
	At time.Time
	// CPU time in nanoseconds: all, in user and in kernel mode.
	CPU, CPUUser, CPUSystem uint64
	// Of the CPU quota: periods in which the group ran, those in which it was
	// throttled, and for how long, in nanoseconds.
	Periods, Throttled, ThrottledTime uint64
	// Memory in bytes. The working set is what cannot be given up at once.
	Memory, MemoryMax, WorkingSet, RSS, Cache, Swap, MappedFile uint64
	// Limits, 0 for none: memory and swap in bytes, CPU in microseconds per
	// period, shares in the scale of v1.
	MemoryLimit, SwapLimit, Quota, Period, Shares uint64
	// Faults of pages, those that read a disk, failed charges and kills for
	// lack of memory.
	Faults, MajorFaults, FailCount, OOMKills uint64
	Processes                                uint64
	ProcessLimit                             uint64
	IO                                       []DeviceIO
	Pressure                                 map[string]Pressure // by "cpu", "memory", "io"; v2 only
}

// DeviceIO is what was read from and written to one block device.
type DeviceIO struct {
	Major, Minor                             uint32
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
}

// Pressure is the time for which some or all processes waited for a resource
// (pressure stall information), in microseconds, and its moving averages in
// percent over 10, 60 and 300 s.
type Pressure struct{ Some, Full Stall }

// Stall is one line of a pressure file.
type Stall struct {
	Total                uint64
	Avg10, Avg60, Avg300 float64
}

// Usage reads what a group has used; group is a path such as Group returns.
func (m *Manager) Usage(group string) (*Usage, error) {
	u := &Usage{At: time.Now()}
	if err := m.a.usage(group, u); err != nil {
		return nil, err
	}
	return u, nil
}

// WorkingSet is what all pods together hold of the memory, in bytes.
func (m *Manager) WorkingSet() (uint64, error) {
	u, err := m.Usage(m.Group(Guaranteed, ""))
	if err != nil {
		return 0, err
	}
	return u.WorkingSet, nil
}

// Processes counts the processes and threads of a pod.
func (m *Manager) Processes(c Class, pod string) (int64, error) {
	u, err := m.Usage(m.Group(c, pod))
	if err != nil {
		return 0, err
	}
	return int64(u.Processes), nil
}

// number reads a file of one number; "max" and whatever is missing are 0.
func number(dir, name string) uint64 {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// table reads a file of lines "name number".
func table(dir, name string) map[string]uint64 {
	out := map[string]uint64{}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return out
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if w := strings.Fields(sc.Text()); len(w) == 2 {
			out[w[0]], _ = strconv.ParseUint(w[1], 10, 64)
		}
	}
	return out
}

// without is a - b, and 0 rather than less.
func without(a, b uint64) uint64 { return a - min(a, b) }

// unlimited is what v1 shows for no limit: the greatest multiple of a page.
const unlimited = 1 << 62

func (a *v1) usage(group string, u *Usage) error {
	dir := func(controller string) string {
		if mount, ok := a.mounts[controller]; ok {
			return filepath.Join(mount, group)
		}
		return ""
	}
	if d := dir("cpuacct"); d != "" {
		if _, err := os.Stat(d); err != nil {
			return err
		}
		u.CPU = number(d, "cpuacct.usage")
		u.CPUUser, u.CPUSystem = number(d, "cpuacct.usage_user"), number(d, "cpuacct.usage_sys")
	}
	if d := dir("cpu"); d != "" {
		st := table(d, "cpu.stat")
		u.Periods, u.Throttled, u.ThrottledTime = st["nr_periods"], st["nr_throttled"], st["throttled_time"]
		u.Quota, u.Period, u.Shares = number(d, "cpu.cfs_quota_us"), number(d, "cpu.cfs_period_us"), number(d, "cpu.shares")
	}
	if d := dir("memory"); d != "" {
		st := table(d, "memory.stat")
		u.Memory, u.MemoryMax = number(d, "memory.usage_in_bytes"), number(d, "memory.max_usage_in_bytes")
		u.RSS, u.Cache, u.Swap, u.MappedFile = st["total_rss"], st["total_cache"], st["total_swap"], st["total_mapped_file"]
		u.WorkingSet = without(u.Memory, st["total_inactive_file"])
		u.Faults, u.MajorFaults, u.FailCount = st["total_pgfault"], st["total_pgmajfault"], number(d, "memory.failcnt")
		u.OOMKills = table(d, "memory.oom_control")["oom_kill"]
		if n := number(d, "memory.limit_in_bytes"); n < unlimited {
			u.MemoryLimit = n
		}
		if n := number(d, "memory.memsw.limit_in_bytes"); n < unlimited {
			u.SwapLimit = n
		}
	}
	if d := dir("pids"); d != "" {
		u.Processes, u.ProcessLimit = number(d, "pids.current"), number(d, "pids.max")
	}
	if d := dir("blkio"); d != "" {
		u.IO = readBlkio(d)
	}
	return nil
}

// readBlkio reads the counters of v1, lines "8:0 Read 4096".
func readBlkio(dir string) []DeviceIO {
	by := map[string]*DeviceIO{}
	var order []string
	for file, ops := range map[string]bool{"blkio.throttle.io_service_bytes_recursive": false, "blkio.throttle.io_serviced_recursive": true} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			if len(w) != 3 {
				continue
			}
			d, name := by[w[0]], w[0]
			if d == nil {
				d = &DeviceIO{}
				d.Major, d.Minor = device(name)
				by[name] = d
				order = append(order, name)
			}
			n, _ := strconv.ParseUint(w[2], 10, 64)
			switch {
			case w[1] == "Read" && ops:
				d.ReadOps = n
			case w[1] == "Read":
				d.ReadBytes = n
			case w[1] == "Write" && ops:
				d.WriteOps = n
			case w[1] == "Write":
				d.WriteBytes = n
			}
		}
	}
	return devices(by, order)
}

func devices(by map[string]*DeviceIO, order []string) []DeviceIO {
	out := make([]DeviceIO, 0, len(order))
	for _, name := range order {
		out = append(out, *by[name])
	}
	return out
}

// device splits "8:16".
func device(s string) (major, minor uint32) {
	a, b, _ := strings.Cut(s, ":")
	x, _ := strconv.ParseUint(a, 10, 32)
	y, _ := strconv.ParseUint(b, 10, 32)
	return uint32(x), uint32(y)
}

func (a *v2) usage(group string, u *Usage) error {
	d := filepath.Join(a.mount, group)
	if _, err := os.Stat(d); err != nil {
		return err
	}
	const micro = 1000
	cpu, mem := table(d, "cpu.stat"), table(d, "memory.stat")
	u.CPU, u.CPUUser, u.CPUSystem = cpu["usage_usec"]*micro, cpu["user_usec"]*micro, cpu["system_usec"]*micro
	u.Periods, u.Throttled, u.ThrottledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*micro
	u.Memory, u.MemoryMax = number(d, "memory.current"), number(d, "memory.peak")
	u.RSS, u.Cache, u.MappedFile = mem["anon"], mem["file"], mem["file_mapped"]
	u.Swap = number(d, "memory.swap.current")
	u.WorkingSet = without(u.Memory, mem["inactive_file"])
	u.Faults, u.MajorFaults = mem["pgfault"], mem["pgmajfault"]
	events := table(d, "memory.events")
	u.FailCount, u.OOMKills = events["max"], events["oom_kill"]
	u.MemoryLimit, u.SwapLimit = number(d, "memory.max"), number(d, "memory.swap.max")
	if b, err := os.ReadFile(filepath.Join(d, "cpu.max")); err == nil {
		if w := strings.Fields(string(b)); len(w) == 2 {
			u.Quota, _ = strconv.ParseUint(w[0], 10, 64)
			u.Period, _ = strconv.ParseUint(w[1], 10, 64)
		}
	}
	if w := number(d, "cpu.weight"); w > 0 {
		u.Shares = 2 + (w-1)*262142/9999
	}
	u.Processes, u.ProcessLimit = number(d, "pids.current"), number(d, "pids.max")
	u.IO = readIOStat(d)
	for _, what := range []string{"cpu", "memory", "io"} {
		if p, ok := readPressure(filepath.Join(d, what+".pressure")); ok {
			if u.Pressure == nil {
				u.Pressure = map[string]Pressure{}
			}
			u.Pressure[what] = p
		}
	}
	return nil
}

// readIOStat reads the counters of v2, lines "8:0 rbytes=1 wbytes=2 ...".
func readIOStat(dir string) []DeviceIO {
	b, err := os.ReadFile(filepath.Join(dir, "io.stat"))
	if err != nil {
		return nil
	}
	var out []DeviceIO
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		d := DeviceIO{}
		d.Major, d.Minor = device(w[0])
		for _, pair := range w[1:] {
			name, v, _ := strings.Cut(pair, "=")
			n, _ := strconv.ParseUint(v, 10, 64)
			switch name {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			}
		}
		out = append(out, d)
	}
	return out
}

// readPressure reads lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
func readPressure(path string) (Pressure, bool) {
	var p Pressure
	b, err := os.ReadFile(path)
	if err != nil {
		return p, false
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) != 5 {
			continue
		}
		s := &p.Some
		if w[0] == "full" {
			s = &p.Full
		}
		for _, pair := range w[1:] {
			name, v, _ := strings.Cut(pair, "=")
			switch name {
			case "avg10":
				s.Avg10, _ = strconv.ParseFloat(v, 64)
			case "avg60":
				s.Avg60, _ = strconv.ParseFloat(v, 64)
			case "avg300":
				s.Avg300, _ = strconv.ParseFloat(v, 64)
			case "total":
				s.Total, _ = strconv.ParseUint(v, 10, 64)
			}
		}
	}
	return p, true
}

// AnyProcess returns the id of a process in a group or below it, 0 for none.
func (m *Manager) AnyProcess(group string) int {
	for _, dir := range m.a.dirs(group) {
		if pid := anyProcess(dir); pid > 0 {
			return pid
		}
	}
	return 0
}

func anyProcess(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	if pid, err := strconv.Atoi(first); err == nil {
		return pid
	}
	names, _ := listDirs(dir)
	for _, n := range names {
		if pid := anyProcess(filepath.Join(dir, n)); pid > 0 {
			return pid
		}
	}
	return 0
}

func (a *v1) dirs(group string) []string {
	for _, c := range []string{"memory", "cpu", "pids"} {
		if mount, ok := a.mounts[c]; ok {
			return []string{filepath.Join(mount, group)}
		}
	}
	return nil
}

func (a *v2) dirs(group string) []string { return []string{filepath.Join(a.mount, group)} }
