package apiserver

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// stored tells, when somebody asks, how many objects of each resource there
// are, and what was built.
type stored struct {
	s                        *Server
	objects, resource, build *prometheus.Desc
}

func newStored(s *Server) *stored {
	return &stored{
		s: s,
		objects: prometheus.NewDesc("apiserver_storage_objects",
			"[STABLE] (Deprecated since 1.34.0) [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", []string{"resource"}, nil),
		resource: prometheus.NewDesc("apiserver_resource_objects",
			"[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", []string{"group", "resource"}, nil),
		build: prometheus.NewDesc("kubernetes_build_info",
			"[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
			[]string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *stored) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.objects
	ch <- c.resource
	ch <- c.build
}

// Collect implements prometheus.Collector.
func (c *stored) Collect(ch chan<- prometheus.Metric) {
	v := c.s.cfg.Version
	ch <- prometheus.MustNewConstMetric(c.build, prometheus.GaugeValue, 1,
		v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, runtime.Version(), runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH)
	seen := map[schema.GroupResource]bool{}
	for _, r := range c.s.routes {
		if r.store == nil || r.Prefix == "" || seen[r.gr] {
			continue
		}
		seen[r.gr] = true
		n := float64(r.store.Count())
		ch <- prometheus.MustNewConstMetric(c.objects, prometheus.GaugeValue, n, r.gr.String())
		ch <- prometheus.MustNewConstMetric(c.resource, prometheus.GaugeValue, n, r.gr.Group, r.gr.Resource)
	}
}
