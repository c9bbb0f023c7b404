package controllers

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestCounts(t *testing.T) {
	count := func(c *Counts) {
		c.CronJobStarted(3 * time.Second)
		c.JobFinished("Indexed", "BackoffLimitExceeded", false)
		c.JobFinished("NonIndexed", "CompletionsReached", true)
		c.NodeEvicted("z")
		c.PodEvicted(false)
		c.PodEvicted(true)
		c.PodEvicted(true)
		c.VolumeClaimMade(nil)
		c.VolumeClaimMade(errors.New("no"))
		c.ResourceClaimMade(errors.New("no"))
	}
	count(nil) // nobody counts
	c, r := NewCounts(), prometheus.NewRegistry()
	r.MustRegister(c)
	count(c)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`cronjob_controller_job_creation_skew_duration_seconds_bucket{le="4"} 1`,
		`job_controller_jobs_finished_total{completion_mode="Indexed",reason="BackoffLimitExceeded",result="failed"} 1`,
		`job_controller_jobs_finished_total{completion_mode="NonIndexed",reason="CompletionsReached",result="succeeded"} 1`,
		`node_collector_evictions_total{zone="z"} 1`,
		`taint_eviction_controller_pod_deletions_total 1`, `device_taint_eviction_controller_pod_deletions_total 2`,
		`ephemeral_volume_controller_create_total 2`, `ephemeral_volume_controller_create_failures_total 1`,
		`resourceclaim_controller_creates_total{status="failure"} 1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
}
