// Package settings reads the kubelet's configuration in the format that
// upstream's users know: a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)
// and a folder of drop-ins flow in, the kubelet's own configuration and what
// /configz shows flow out. What this kubelet does not do is refused or warned
// of, never silently ignored.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/kubelet/pulled"
)

// Settings is a configuration as it was read, with upstream's defaults.
type Settings struct {
	kubeletv1beta1.KubeletConfiguration
	// Warnings are sentences about what has no effect.
	Warnings []string
}

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	kind       = "KubeletConfiguration"
	maxFile    = 1 << 20
)

// Load reads the file ("" for none) and then the folder of drop-ins ("" for
// none): its files that end in .conf, in the order of their names, each merged
// into what is there as a JSON merge patch (RFC 7396; the page "Set Kubelet
// Parameters Via A Configuration File"). The result has its defaults and is
// valid. Errors name the file.
func Load(file, dir string) (*Settings, error) {
	s := &Settings{}
	merged := map[string]any{}
	files, err := dropIns(dir)
	if err != nil {
		return nil, err
	}
	if file != "" {
		files = append([]string{file}, files...)
	}
	for _, f := range files {
		doc, err := s.read(f)
		if err != nil {
			return nil, fmt.Errorf("kubelet configuration %s: %w", f, err)
		}
		s.relativeTo(filepath.Dir(f), doc)
		merge(merged, doc)
	}
	b, err := json.Marshal(merged)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &s.KubeletConfiguration); err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	s.Kind, s.APIVersion = kind, apiVersion
	s.setDefaults()
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	return s, nil
}

// dropIns lists the files of a drop-in folder, those of folders in it
// included.
func dropIns(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && strings.HasSuffix(d.Name(), ".conf") {
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet configuration folder: %w", err)
	}
	slices.Sort(out)
	return out, nil
}

// read decodes one file. Fields that are unknown are warned of, as upstream
// does: they may be those of another version.
func (s *Settings) read(path string) (map[string]any, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, err
	}
	typed := &kubeletv1beta1.KubeletConfiguration{}
	strict, err := kjson.UnmarshalStrict(j, typed)
	if err != nil {
		return nil, err
	}
	if typed.APIVersion != apiVersion || typed.Kind != kind {
		return nil, fmt.Errorf("holds %s %s, want %s %s", typed.APIVersion, typed.Kind, apiVersion, kind)
	}
	for _, e := range strict {
		s.warn("%s: %v", path, e)
	}
	doc := map[string]any{}
	return doc, json.Unmarshal(j, &doc)
}

func (s *Settings) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

// relativeTo makes the paths absolute that a file names, which are relative to
// its folder.
func (s *Settings) relativeTo(dir string, doc map[string]any) {
	absolute := func(m map[string]any, name string) {
		if p, ok := m[name].(string); ok && p != "" && !filepath.IsAbs(p) {
			if abs, err := filepath.Abs(filepath.Join(dir, p)); err == nil {
				m[name] = abs
			}
		}
	}
	for _, name := range []string{"staticPodPath", "tlsCertFile", "tlsPrivateKeyFile"} {
		absolute(doc, name)
	}
	if a, ok := doc["authentication"].(map[string]any); ok {
		if x, ok := a["x509"].(map[string]any); ok {
			absolute(x, "clientCAFile")
		}
	}
}

// merge applies a JSON merge patch to a document (RFC 7396).
func merge(into, patch map[string]any) {
	for name, v := range patch {
		sub, isMap := v.(map[string]any)
		have, hasMap := into[name].(map[string]any)
		switch {
		case v == nil:
			delete(into, name)
		case isMap && hasMap:
			merge(have, sub)
		case isMap:
			fresh := map[string]any{}
			merge(fresh, sub)
			into[name] = fresh
		default:
			into[name] = v
		}
	}
}

// check refuses what is contradictory, or what cannot be done here and whose
// absence would do harm.
func (s *Settings) check() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	oneOf := func(field, v string, allowed ...string) {
		refuse(!slices.Contains(allowed, v), "%s: %q is none of %s", field, v, strings.Join(allowed, ", "))
	}
	percent := func(field string, v int32) { refuse(v < 0 || v > 100, "%s: %d is no percentage", field, v) }
	percent("imageGCHighThresholdPercent", *s.ImageGCHighThresholdPercent)
	percent("imageGCLowThresholdPercent", *s.ImageGCLowThresholdPercent)
	refuse(*s.ImageGCLowThresholdPercent >= *s.ImageGCHighThresholdPercent, "imageGCLowThresholdPercent must be less than imageGCHighThresholdPercent")
	refuse(s.ImageMaximumGCAge.Duration != 0 && s.ImageMaximumGCAge.Duration <= s.ImageMinimumGCAge.Duration, "imageMaximumGCAge must be more than imageMinimumGCAge")
	refuse(s.MaxPods < 0, "maxPods: %d is negative", s.MaxPods)
	refuse(s.PodsPerCore < 0, "podsPerCore: %d is negative", s.PodsPerCore)
	refuse(s.NodeLeaseDurationSeconds <= 0, "nodeLeaseDurationSeconds: %d must be positive", s.NodeLeaseDurationSeconds)
	refuse(*s.ContainerLogMaxFiles < 2, "containerLogMaxFiles: %d is less than 2", *s.ContainerLogMaxFiles)
	refuse(s.Port < 1 || s.Port > 65535, "port: %d is none", s.Port)
	refuse(!*s.CgroupsPerQOS, "cgroupsPerQOS: pods are always in cgroups by class")
	refuse(len(s.QOSReserved) > 0, "qosReserved is not done")
	refuse(s.RunOnce, "runOnce is not done")
	refuse(s.RegisterNode != nil && !*s.RegisterNode && len(s.RegisterWithTaints) > 0, "registerWithTaints needs registerNode")
	oneOf("cpuManagerPolicy", s.CPUManagerPolicy, "none", "static")
	oneOf("memoryManagerPolicy", s.MemoryManagerPolicy, "None", "Static")
	oneOf("topologyManagerPolicy", s.TopologyManagerPolicy, "none", "best-effort", "restricted", "single-numa-node")
	oneOf("topologyManagerScope", s.TopologyManagerScope, "container", "pod")
	oneOf("memorySwap.swapBehavior", s.MemorySwap.SwapBehavior, "", "NoSwap", "LimitedSwap")
	oneOf("authorization.mode", string(s.Authorization.Mode), "AlwaysAllow", "Webhook")
	oneOf("hairpinMode", s.HairpinMode, "promiscuous-bridge", "hairpin-veth", "none")
	oneOf("configMapAndSecretChangeDetectionStrategy", string(s.ConfigMapAndSecretChangeDetectionStrategy), "Watch", "Cache", "Get")
	for _, e := range s.EnforceNodeAllocatable {
		oneOf("enforceNodeAllocatable", e, "none", "pods", "system-reserved", "kube-reserved")
	}
	refuse(slices.Contains(s.EnforceNodeAllocatable, "system-reserved") && s.SystemReservedCgroup == "", "enforceNodeAllocatable: system-reserved needs systemReservedCgroup")
	refuse(slices.Contains(s.EnforceNodeAllocatable, "kube-reserved") && s.KubeReservedCgroup == "", "enforceNodeAllocatable: kube-reserved needs kubeReservedCgroup")
	refuse(s.ShutdownGracePeriodCriticalPods.Duration > s.ShutdownGracePeriod.Duration, "shutdownGracePeriodCriticalPods must be at most shutdownGracePeriod")
	refuse(len(s.ShutdownGracePeriodByPodPriority) > 0 && s.ShutdownGracePeriod.Duration > 0, "shutdownGracePeriodByPodPriority and shutdownGracePeriod exclude each other")
	if m := s.CrashLoopBackOff.MaxContainerRestartPeriod; m != nil {
		refuse(m.Seconds() < 1 || m.Seconds() > 300, "crashLoopBackOff.maxContainerRestartPeriod: %v is not between 1 and 300 s", m.Duration)
	}
	if u := s.UserNamespaces; u != nil && u.IDsPerPod != nil {
		refuse(*u.IDsPerPod < 65536 || *u.IDsPerPod%65536 != 0 || *u.IDsPerPod >= 1<<32, "userNamespaces.idsPerPod: %d is no multiple of 65536", *u.IDsPerPod)
	}
	if n := s.MaxParallelImagePulls; n != nil {
		refuse(*n < 1, "maxParallelImagePulls: %d must be positive", *n)
		refuse(*s.SerializeImagePulls && *n > 1, "maxParallelImagePulls needs serializeImagePulls to be false")
	}
	oneOf("imagePullCredentialsVerificationPolicy", string(s.ImagePullCredentialsVerificationPolicy), string(kubeletv1beta1.NeverVerify),
		string(kubeletv1beta1.NeverVerifyPreloadedImages), string(kubeletv1beta1.NeverVerifyAllowlistedImages), string(kubeletv1beta1.AlwaysVerify))
	refuse(len(s.PreloadedImagesVerificationAllowlist) > 0 && s.ImagePullCredentialsVerificationPolicy != kubeletv1beta1.NeverVerifyAllowlistedImages,
		"preloadedImagesVerificationAllowlist needs imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages")
	for _, pattern := range s.PreloadedImagesVerificationAllowlist {
		err := pulled.CheckPattern(pattern)
		refuse(err != nil, "preloadedImagesVerificationAllowlist: %w", err)
	}
	s.warnings()
	return errors.Join(errs...)
}

// warnings tell of what is accepted and has no effect here, where it was set
// to something else than its default.
func (s *Settings) warnings() {
	no := func(set bool, field, why string) {
		if set {
			s.warn("%s has no effect: %s", field, why)
		}
	}
	no(s.CgroupDriver != "cgroupfs", "cgroupDriver", "the cgroups are always made through the file system")
	no(s.ReadOnlyPort != 0, "readOnlyPort", "there is no port without authentication")
	no(s.EnableContentionProfiling, "enableContentionProfiling", "profiles are read from cox's control socket")
	no(s.KubeletCgroups != "" || s.SystemCgroups != "", "kubeletCgroups and systemCgroups", "processes are left in the cgroups in which they were started")
	no(s.MakeIPTablesUtilChains != nil && *s.MakeIPTablesUtilChains, "makeIPTablesUtilChains", "no iptables rules are used")
	no(s.PodCIDR != "", "podCIDR", "the Node says which range its pods get")
	no(s.KernelMemcgNotification, "kernelMemcgNotification", "memory is measured every 10 s")
	no(s.ShowHiddenMetricsForVersion != "", "showHiddenMetricsForVersion", "no metric is hidden")
	no(s.Tracing != nil, "tracing", "no spans are sent")
	no(s.ProtectKernelDefaults, "protectKernelDefaults", "kernel settings are not changed")
	no(s.EnableSystemLogQuery != nil && *s.EnableSystemLogQuery, "enableSystemLogQuery", "logs of services are not queried")
	no(s.SingleProcessOOMKill != nil, "singleProcessOOMKill", "the runtime decides it")
	no(s.MemoryReservationPolicy != "" && s.MemoryReservationPolicy != "None", "memoryReservationPolicy", "the feature gate MemoryQoS is off")
	no(*s.RegistryPullQPS != 5 || s.RegistryBurst != 10, "registryPullQPS and registryBurst", "pulls are bounded by their number at a time")
	no(*s.EventRecordQPS != 50 || s.EventBurst != 100, "eventRecordQPS and eventBurst", "events are not held back")
	no(*s.KubeAPIQPS != 50 || s.KubeAPIBurst != 100, "kubeAPIQPS and kubeAPIBurst", "requests are not held back")
	no(s.StreamingConnectionIdleTimeout.Duration != 4*time.Hour, "streamingConnectionIdleTimeout", "streams end with their clients")
	no(s.RuntimeRequestTimeout.Duration != 2*time.Minute, "runtimeRequestTimeout", "calls to the runtime have bounds of their own")
	no(*s.OOMScoreAdj != -999, "oomScoreAdj", "the process keeps the score that it was started with")
	no(s.MaxOpenFiles != 1000000, "maxOpenFiles", "the process keeps the limit that it was started with")
	no(!*s.EnableServer, "enableServer", "the API is always served")
	for gate, on := range s.FeatureGates {
		s.warn("featureGates.%s=%v has no effect: gates have the values of Kubernetes 1.36", gate, on)
	}
	slices.Sort(s.Warnings)
}
