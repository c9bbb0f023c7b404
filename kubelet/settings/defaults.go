package settings

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

func or[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func orNew[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func orLasts(p *metav1.Duration, d time.Duration) { or(&p.Duration, d) }

// setDefaults fills in what the type comments of the configuration's API name
// as defaults.
func (s *Settings) setDefaults() {
	c := &s.KubeletConfiguration
	orNew(&c.EnableServer, true)
	orLasts(&c.SyncFrequency, time.Minute)
	orLasts(&c.FileCheckFrequency, 20*time.Second)
	orLasts(&c.HTTPCheckFrequency, 20*time.Second)
	or(&c.Address, "0.0.0.0")
	or(&c.Port, 10250)
	orNew(&c.Authentication.Anonymous.Enabled, false)
	orNew(&c.Authentication.Webhook.Enabled, true)
	orLasts(&c.Authentication.Webhook.CacheTTL, 2*time.Minute)
	or(&c.Authorization.Mode, kubeletv1beta1.KubeletAuthorizationModeWebhook)
	orLasts(&c.Authorization.Webhook.CacheAuthorizedTTL, 5*time.Minute)
	orLasts(&c.Authorization.Webhook.CacheUnauthorizedTTL, 30*time.Second)
	or(&c.ImagePullCredentialsVerificationPolicy, kubeletv1beta1.NeverVerifyPreloadedImages)
	orNew(&c.RegistryPullQPS, 5)
	or(&c.RegistryBurst, 10)
	orNew(&c.EventRecordQPS, 50)
	or(&c.EventBurst, 100)
	orNew(&c.EnableDebuggingHandlers, true)
	orNew(&c.HealthzPort, 10248)
	or(&c.HealthzBindAddress, "127.0.0.1")
	orNew(&c.OOMScoreAdj, -999)
	orLasts(&c.StreamingConnectionIdleTimeout, 4*time.Hour)
	orLasts(&c.NodeStatusReportFrequency, or5Minutes(c.NodeStatusUpdateFrequency.Duration))
	orLasts(&c.NodeStatusUpdateFrequency, 10*time.Second)
	or(&c.NodeLeaseDurationSeconds, 40)
	orLasts(&c.ImageMinimumGCAge, 2*time.Minute)
	orNew(&c.ImageGCHighThresholdPercent, 85)
	orNew(&c.ImageGCLowThresholdPercent, 80)
	orLasts(&c.VolumeStatsAggPeriod, time.Minute)
	orNew(&c.CgroupsPerQOS, true)
	or(&c.CgroupDriver, "cgroupfs")
	or(&c.CPUManagerPolicy, "none")
	orLasts(&c.CPUManagerReconcilePeriod, 10*time.Second)
	or(&c.MemoryManagerPolicy, "None")
	or(&c.TopologyManagerPolicy, "none")
	or(&c.TopologyManagerScope, "container")
	orLasts(&c.RuntimeRequestTimeout, 2*time.Minute)
	or(&c.HairpinMode, "promiscuous-bridge")
	or(&c.MaxPods, 110)
	orNew(&c.PodPidsLimit, -1)
	orNew(&c.CPUCFSQuota, true)
	orNew(&c.CPUCFSQuotaPeriod, metav1.Duration{Duration: 100 * time.Millisecond})
	orNew(&c.NodeStatusMaxImages, 50)
	or(&c.MaxOpenFiles, 1000000)
	or(&c.ContentType, "application/vnd.kubernetes.protobuf")
	orNew(&c.KubeAPIQPS, 50)
	or(&c.KubeAPIBurst, 100)
	// Unlike upstream's, this kubelet pulls images side by side, and runs on
	// machines with swap (which pods do not get) and cgroups v1, unless told
	// otherwise.
	orNew(&c.SerializeImagePulls, false)
	orNew(&c.FailSwapOn, false)
	orNew(&c.FailCgroupV1, false)
	s.defaultEviction()
	orNew(&c.EnableControllerAttachDetach, true)
	or(&c.ContainerLogMaxSize, "10Mi")
	orNew(&c.ContainerLogMaxFiles, 5)
	orNew(&c.ContainerLogMaxWorkers, 1)
	orNew(&c.ContainerLogMonitorInterval, metav1.Duration{Duration: 10 * time.Second})
	or(&c.ConfigMapAndSecretChangeDetectionStrategy, kubeletv1beta1.WatchChangeDetectionStrategy)
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
	or(&c.VolumePluginDir, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")
	orNew(&c.EnableSystemLogHandler, true)
	orNew(&c.EnableSystemLogQuery, false)
	orNew(&c.EnableProfilingHandler, true)
	orNew(&c.EnableDebugFlagsHandler, true)
	orNew(&c.SeccompDefault, false)
	orNew(&c.RegisterNode, true)
	if c.RegisterWithTaints == nil {
		c.RegisterWithTaints = []corev1.Taint{}
	}
	orNew(&c.LocalStorageCapacityIsolation, true)
}

// or5Minutes is the default of the report's frequency: that of the updates
// where one was set.
func or5Minutes(update time.Duration) time.Duration {
	if update > 0 {
		return update
	}
	return 5 * time.Minute
}

// defaultEviction: without thresholds of its own a configuration gets the
// defaults; one with any gets only what it names, unless it asks to be merged
// (mergeDefaultEvictionSettings).
func (s *Settings) defaultEviction() {
	c := &s.KubeletConfiguration
	orNew(&c.MergeDefaultEvictionSettings, false)
	orLasts(&c.EvictionPressureTransitionPeriod, 5*time.Minute)
	standard := map[string]string{
		"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%",
	}
	if c.EvictionHard == nil {
		c.EvictionHard = standard
		return
	}
	if *c.MergeDefaultEvictionSettings {
		for name, v := range standard {
			if _, ok := c.EvictionHard[name]; !ok {
				c.EvictionHard[name] = v
			}
		}
	}
}
