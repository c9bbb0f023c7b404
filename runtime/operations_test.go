package runtime

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNamesOfOperations(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/RunPodSandbox": "run_podsandbox", "/runtime.v1.RuntimeService/ListPodSandbox": "list_podsandbox",
		"/runtime.v1.RuntimeService/PodSandboxStatus": "podsandbox_status", "/runtime.v1.RuntimeService/CreateContainer": "create_container",
		"/runtime.v1.RuntimeService/ExecSync": "exec_sync", "/runtime.v1.RuntimeService/UpdateContainerResources": "update_container",
		"/runtime.v1.RuntimeService/Version": "version", "/runtime.v1.ImageService/PullImage": "pull_image",
		"/containerd.services.content.v1.Content/Abort": "",
	} {
		if have := operation(method); have != want {
			t.Errorf("%s: %q, want %q", method, have, want)
		}
	}
}

func TestCountsOfOperations(t *testing.T) {
	o := newOperations()
	o.count("/runtime.v1.RuntimeService/StopContainer", 1, nil)
	o.count("/runtime.v1.RuntimeService/StopContainer", 1, errors.New("no"))
	o.count("/containerd.services.content.v1.Content/Abort", 1, nil)
	r := prometheus.NewRegistry()
	r.MustRegister(o)
	all, err := r.Gather()
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	for i, want := range []float64{2, 1, 2} { // duration, errors, total
		m := all[i].Metric[0]
		if have := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); have != want || len(all[i].Metric) != 1 {
			t.Errorf("%s: %v", all[i].GetName(), all[i].Metric)
		}
	}
}
