package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"
	"k8s.io/utils/cpuset"

	"github.com/coxswain/cox/client"
)

// Config is what a kubelet needs. Fields without a default must be set. Those
// that a user sets in the kubelet's configuration file are filled in by the
// package settings.
type Config struct {
	// Client carries the identity system:node:NodeName.
	Client   client.Interface
	NodeName string
	// NodeIPs are the node's addresses, the primary first (one per family).
	NodeIPs []string
	// Hostname is the address of type Hostname; default NodeName.
	Hostname string
	// RootDir holds the pods' folders (RootDir/pods/<uid>), LogDir their logs
	// (LogDir/<namespace>_<name>_<uid>/<container>/<n>.log).
	RootDir, LogDir string
	// PluginDir holds the folders in which plugins of the node look for
	// sockets: device-plugins, plugins_registry, pod-resources; default RootDir.
	PluginDir string
	// ContainerLogDir gets a link to each container's log, named as collectors
	// of logs expect (<pod>_<namespace>_<container>-<id>.log); "" for none.
	ContainerLogDir string
	// SeccompDir holds Localhost seccomp profiles; default RootDir/seccomp.
	SeccompDir string

	// Runtime and Images are the CRI runtime. RuntimeName is shown in
	// container ids ("containerd"); default as the runtime says.
	Runtime     runtimeapi.RuntimeServiceClient
	Images      runtimeapi.ImageServiceClient
	RuntimeName string
	// PullProgress says how many bytes of an image that is being pulled are
	// there and how many it has, 0 for unknown; nil where nobody knows.
	PullProgress func(ctx context.Context, image string) (done, total int64, err error)

	// StaticPodDir is the folder of static pod manifests, "" for none.
	StaticPodDir string
	// StaticPodURL is asked for static pod manifests every StaticPodPeriod
	// (default 20 s), with these headers; "" for none.
	StaticPodURL     string
	StaticPodHeaders http.Header
	StaticPodPeriod  time.Duration
	// DefaultPod sets the API's defaults in a static pod; nil sets none.
	DefaultPod func(*corev1.Pod)

	ClusterDNS    []string
	ClusterDomain string // default cluster.local
	ResolvConf    string // the host's resolv.conf, "" for none

	// CgroupRoot is the group below which kubepods is made; default "/".
	CgroupRoot string
	// MaxPods is 110 by default, Port (of the HTTPS API) 10250. PodsPerCore
	// bounds the pods by the CPUs; 0 does not.
	MaxPods, PodsPerCore int
	Port                 int
	// Reserved is kept from pods, as are the limits of hard eviction.
	Reserved corev1.ResourceList
	// ReservedGroups are cgroups that exist and are given what is reserved for
	// them, by path ("/system.slice").
	ReservedGroups map[string]corev1.ResourceList
	// Unbounded leaves the cgroup of all pods without limits
	// (enforceNodeAllocatable without "pods").
	Unbounded bool
	// Eviction are the limits at which pods are evicted.
	Eviction Eviction
	// Containers is how containers are treated, ImageGC when images are
	// removed, Exclusive which CPUs and memory are given to single containers.
	Containers Containers
	ImageGC    ImageGC
	Exclusive  Exclusive
	// ImageAccess is which pods can use images that are present.
	ImageAccess ImageAccess
	// Credentials are the plugins that know credentials of registries.
	Credentials Credentials

	// Labels, Annotations and Taints are given to the node when it is
	// registered; ProviderID names it to its cloud. Unregistered leaves making
	// the Node object to others.
	Labels, Annotations map[string]string
	Taints              []corev1.Taint
	ProviderID          string
	Unregistered        bool
	// LeaseSeconds is how long the node's lease lasts (default 40; renewed
	// after a quarter of it), StatusPeriod how often its status is reported
	// though it did not change (default 5 minutes), StatusImages how many
	// images it lists (default 50, -1 for all).
	LeaseSeconds int32
	StatusPeriod time.Duration
	StatusImages int

	// Shutdown is how pods are ended when the machine is shut down; empty
	// leaves that to the machine. Power tells of
	// shutdowns; nil asks systemd-logind.
	Shutdown []ShutdownStep
	Power    PowerEvents

	// Drain is called when a ready pod was deleted, before its containers get
	// SIGTERM, and returns when no new connections reach the pod any more.
	// Its context ends after 2 s, or half of the pod's grace period. nil
	// stops containers at once.
	Drain func(ctx context.Context, pod *corev1.Pod)

	// Upkept, if not nil, is called every ten seconds or so, when the kubelet has
	// done what nothing tells it to do: for what else is to be done now and then
	// without waking the node for it. It may take long.
	Upkept func()

	// Version is shown as the kubelet's, such as "v1.36.2".
	Version string
	Log     *slog.Logger
	Clock   clock.WithTickerAndDelayedExecution // default: the real one
}

// Containers is how containers are treated. The zero value is the default.
type Containers struct {
	// PidsLimit bounds the processes of a pod; 0 does not.
	PidsLimit int64
	// NoQuota leaves CPU limits unenforced; QuotaPeriod is the period over
	// which they are (default 100 ms).
	NoQuota     bool
	QuotaPeriod time.Duration
	// SeccompDefault confines what names no seccomp profile.
	SeccompDefault bool
	// UnsafeSysctls are patterns ("net.core.*") of sysctls beyond the safe
	// ones that pods may set.
	UnsafeSysctls []string
	// LogSize (bytes, default 10 MiB) and LogFiles (default 5) bound logs.
	LogSize  int64
	LogFiles int
	// CrashDelay is the longest back-off of a container that keeps failing
	// (default 300 s).
	CrashDelay time.Duration
	// Swap lets burstable pods use swap in proportion to the memory that they
	// ask for (KEP-2400, LimitedSwap).
	Swap bool
	// UserIDs is how many ids a pod with a user namespace gets (default and
	// least 65536, a multiple of it).
	UserIDs uint32
	// NoStorageLimits leaves limits of local storage unenforced.
	NoStorageLimits bool
	// SerialPulls pulls one image after another; else ParallelPulls bounds
	// how many at once, 0 does not.
	SerialPulls   bool
	ParallelPulls int
}

// ImageGC is when images that nothing uses are removed. Zero values stand for
// the defaults.
type ImageGC struct {
	// High and Low are percentages of the file system: above High images are
	// removed until Low (85 and 80). High 100 removes none.
	High, Low int
	// MinAge (default 2 minutes) is how long an image stays at least, MaxAge
	// how long it stays unused at most; 0 is for ever.
	MinAge, MaxAge time.Duration
}

// ImageAccess is which pods can use an image that is present though it was
// pulled with credentials that they do not have (KEP-2535), and the images
// that NeverVerifyAllowlistedImages exempts. The zero value stands for
// NeverVerifyPreloadedImages.
type ImageAccess struct {
	Policy    kubeletv1beta1.ImagePullCredentialsVerificationPolicy
	Allowlist []string
}

// ShutdownStep gives pods of a priority, and above up to the next step, a time
// to end when the machine shuts down (KEP-2712).
type ShutdownStep struct {
	Priority int32
	Grace    time.Duration
}

// Exclusive is which resources are given to single containers. The zero value
// gives none.
type Exclusive struct {
	// StaticCPUs gives containers of guaranteed pods that ask for whole CPUs
	// CPUs of their own, in the way of CPUOptions (static CPU manager).
	StaticCPUs bool
	CPUOptions map[string]string
	// ReservedCPUs are kept for the system.
	ReservedCPUs cpuset.CPUSet
	// StaticMemory keeps the memory of guaranteed pods to as few NUMA nodes as
	// possible (KEP-1769). ReservedMemory is kept from them, by NUMA node; in
	// all it must be what Reserved and hard eviction keep.
	StaticMemory   bool
	ReservedMemory map[int]corev1.ResourceList
	// Topology is how CPUs, memory and devices are aligned: "none",
	// "best-effort", "restricted" or "single-numa-node", by TopologyScope:
	// "container" or "pod".
	Topology, TopologyScope string
	TopologyOptions         map[string]string
}

// Credentials are plugins that know credentials of registries: the file that
// configures them (CredentialProviderConfig) and the folder of the programs.
type Credentials struct{ ConfigFile, BinDir string }

func (c *Config) complete() error {
	switch {
	case c.Client == nil, c.Runtime == nil, c.Images == nil:
		return errors.New("kubelet: Client, Runtime and Images must be set")
	case c.NodeName == "":
		return errors.New("kubelet: NodeName must be set")
	case !filepath.IsAbs(c.RootDir), !filepath.IsAbs(c.LogDir):
		return fmt.Errorf("kubelet: RootDir %q and LogDir %q must be absolute paths", c.RootDir, c.LogDir)
	}
	setDefault(&c.ClusterDomain, "cluster.local")
	setDefault(&c.CgroupRoot, "/")
	setDefault(&c.MaxPods, 110)
	setDefault(&c.Port, 10250)
	setDefault(&c.Hostname, c.NodeName)
	setDefault(&c.Version, "v1.36.2")
	setDefault(&c.StaticPodPeriod, 20*time.Second)
	setDefault(&c.LeaseSeconds, 40)
	setDefault(&c.StatusPeriod, 5*time.Minute)
	setDefault(&c.StatusImages, 50)
	setDefault(&c.PluginDir, c.RootDir)
	setDefault(&c.SeccompDir, filepath.Join(c.RootDir, "seccomp"))
	setDefault(&c.Containers.QuotaPeriod, 100*time.Millisecond)
	setDefault(&c.Containers.LogSize, 10<<20)
	setDefault(&c.Containers.LogFiles, 5)
	setDefault(&c.Containers.CrashDelay, crashDelayMax)
	setDefault(&c.Containers.UserIDs, idsPerPod)
	setDefault(&c.ImageGC.High, 85)
	setDefault(&c.ImageGC.Low, 80)
	setDefault(&c.ImageGC.MinAge, 2*time.Minute)
	c.Eviction.setDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return nil
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
