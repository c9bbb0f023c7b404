package kubelet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// TestCounts: the kubelet's own metrics tell what became of its pods.
func TestCounts(t *testing.T) {
	w := newWorld(t)
	registry := prometheus.NewPedanticRegistry()
	for _, m := range w.kubelet.Metrics() {
		w.must(registry.Register(m))
	}
	w.pod(shell("runs", "sleep 1000", "volumeMounts: [{name: v, mountPath: /v}]", `
initContainers:
- {name: i, image: cox.local/busybox:1, command: [sh, -c, "true"]}
volumes: [{name: v, emptyDir: {}}]`))
	w.until("runs", "running", inPhase(corev1.PodRunning))
	w.pod(shell("fails", "exit 3", "", "restartPolicy: Never"))
	w.until("fails", "failed", inPhase(corev1.PodFailed))
	w.pod("metadata: {name: bogus}\nspec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: cox.local/busybox:1, command: [/nowhere]}]}")
	w.until("bogus", "failed", inPhase(corev1.PodFailed))

	var got []string
	some := func(name string) bool {
		return slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, name+"{") && !strings.HasSuffix(s, " 0") })
	}
	w.eventually("the starts are counted", func() bool {
		families, err := registry.Gather()
		w.must(err)
		got = got[:0]
		for _, f := range families {
			for _, m := range f.Metric {
				var labels []string
				for _, l := range m.Label {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
				value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				got = append(got, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), value))
			}
		}
		return some("kubelet_pod_start_duration_seconds")
	})
	for _, want := range []string{
		"kubelet_started_pods_total{} 3", "kubelet_started_pods_errors_total{} 0", "kubelet_run_podsandbox_duration_seconds{runtime_handler=} 3",
		"kubelet_started_containers_total{container_type=container} 3", "kubelet_started_containers_total{container_type=init_container} 1",
		"kubelet_started_containers_errors_total{code=RunContainerError,container_type=container} 1",
		"kubelet_terminated_containers_total{container_type=container,exit_code=3,reason=Error} 1",
		"kubelet_terminated_containers_total{container_type=init_container,exit_code=0,reason=Completed} 1",
		"kubelet_active_pods{static=} 1", "kubelet_desired_pods{static=} 3", "kubelet_containers_per_pod_count{} 3",
		"kubelet_working_pods{config=desired,lifecycle=sync,static=} 1",
		"volume_manager_total_volumes{plugin_name=kubernetes.io/empty-dir,state=actual_state_of_world} 1",
		"kubelet_image_manager_ensure_image_requests_total{present_locally=true,pull_policy=ifnotpresent,pull_required=false} 4",
		"kubelet_evented_pleg_connection_success_count{} 1",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, name := range []string{
		"kubelet_pod_worker_duration_seconds", "kubelet_pod_status_sync_duration_seconds", "kubelet_cgroup_manager_duration_seconds",
		"kubelet_node_startup_duration_seconds", "kubelet_pleg_last_seen_seconds", "storage_operation_duration_seconds", "kubelet_cgroup_version",
	} {
		if !some(name) {
			t.Errorf("no %s", name)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(got, "\n"))
	}
}
