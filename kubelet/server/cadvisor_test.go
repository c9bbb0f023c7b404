package server

import (
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
	"github.com/coxswain/cox/kubelet/probes"
)

type fakeGroups struct {
	m   *cgroups.Manager
	pod *corev1.Pod
}

func (g *fakeGroups) Cgroups() *cgroups.Manager { return g.m }
func (g *fakeGroups) PodGroup(p *corev1.Pod) string {
	return g.m.Group(cgroups.Burstable, "pod"+string(p.UID))
}
func (g *fakeGroups) ContainerGroup(p *corev1.Pod, id string) string {
	return filepath.Join(g.PodGroup(p), id)
}
func (g *fakeGroups) ProbeCounts() []probes.Counts {
	return []probes.Counts{{Pod: g.pod, Container: "c", Kind: probes.Liveness, Succeeded: 3, Failed: 1, Duration: time.Second}}
}

func TestCadvisor(t *testing.T) {
	dir := t.TempDir()
	group := filepath.Join(dir, "kubepods", "burstable", "podu1", "abc")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 1000000\n", "cpu.max": "50000 100000\n",
		"memory.current": "1000000\n", "memory.stat": "anon 300000\nfile 600000\ninactive_file 400000\npgmajfault 7\n", "memory.max": "2000000\n",
		"memory.events": "max 4\noom_kill 2\n", "pids.current": "5\n", "pids.max": "max\n", "io.stat": "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2\n",
		"cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
	} {
		if err := os.WriteFile(filepath.Join(group, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	info := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(info, []byte("1 1 0:1 / "+dir+" rw - cgroup2 cgroup2 rw\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := cgroups.DetectIn(dir, info, "/")
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u1"}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", Image: "img:1", ContainerID: "containerd://abc",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1700000000, 0)}},
	}}
	s := &Server{cfg: Config{Node: &fakeNode{pod: pod}, Groups: &fakeGroups{m, pod}}}
	w := httptest.NewRecorder()
	s.cadvisorMetrics(w, nil)
	b, _ := io.ReadAll(w.Body)
	const labels = `container="c",id="/kubepods/burstable/podu1/abc",image="img:1",name="abc",namespace="n",pod="p"}`
	for _, want := range []string{
		`container_cpu_usage_seconds_total{` + labels + " 2.5", `container_cpu_cfs_throttled_periods_total{` + labels + " 3",
		`container_memory_working_set_bytes{` + labels + " 600000", `container_memory_rss{` + labels + " 300000",
		`container_spec_memory_limit_bytes{` + labels + " 2e+06", `container_oom_events_total{` + labels + " 2",
		`container_fs_writes_bytes_total{device="`, `container_start_time_seconds{` + labels + " 1.7e+09",
		`container_pressure_cpu_stalled_seconds_total{` + labels + " 1", `container_memory_failures_total{failure_type="pgmajfault",scope="hierarchy",` + labels + " 7",
		`container_cpu_usage_seconds_total{container="",id="/kubepods/burstable/podu1",image="",name="",namespace="n",pod="p"} 0`,
		"# TYPE container_memory_working_set_bytes gauge", "machine_memory_bytes{",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s", want)
		}
	}
	w = httptest.NewRecorder()
	s.probeMetrics(w, nil)
	if b, _ := io.ReadAll(w.Body); !strings.Contains(string(b), `prober_probe_total{container="c",namespace="n",pod="p",pod_uid="u1",probe_type="Liveness",result="successful"} 3`) {
		t.Errorf("%s", b)
	}
}

func TestParseNetDev(t *testing.T) {
	got := parseNetDev(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1426      19    2    3    0     0          0         0      796      10    4    5    0     0       0          0
`)
	if len(got) != 1 || got[0].name != "eth0" || got[0].rx != [4]float64{1426, 19, 2, 3} || got[0].tx != [4]float64{796, 10, 4, 5} {
		t.Errorf("%+v", got)
	}
}
