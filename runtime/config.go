package runtime

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
)

// Config says where a node's container runtime lives. Two runtimes on one
// host differ in Root, State and CgroupRoot; everything else follows from
// these.
type Config struct {
	// Root holds images and container file systems; it survives a reboot.
	Root string
	// State holds sockets and what else a reboot may lose. Keep it short:
	// socket paths are limited to 108 bytes.
	State string
	// AssetsDir is where the helper programs are extracted to; "" is
	// Root/bin. Several runtimes may share one.
	AssetsDir string
	// CNIConfDir is the folder whose first network configuration is used;
	// "" is Root/net.d. It is watched, so a configuration may come later.
	CNIConfDir string
	// CNIBinDirs are further folders with CNI plugins, searched before ours.
	CNIBinDirs []string
	// RegistryDir holds the registries' hosts.toml files, as containerd
	// documents them; "" is /etc/containerd/certs.d.
	RegistryDir string
	// CgroupRoot is the cgroup path under which everything of this node
	// runs: the runtime itself in CgroupRoot/runtime. "" is /cox.
	CgroupRoot string
	// SandboxImage is the image of the process that holds a pod's
	// namespaces; "" is the one that cox carries.
	SandboxImage string
	// OCIRuntime is the program that makes containers; "" is crun or runc
	// from PATH.
	OCIRuntime string
	// LogLevel is containerd's; "" is warn.
	LogLevel string
	Log      *slog.Logger
}

// PauseImage is the sandbox image that cox carries.
const PauseImage = "cox.local/pause:1"

// ErrNoOCIRuntime says what to install.
var ErrNoOCIRuntime = errors.New("no program to make containers with was found: install runc or crun (apt-get install runc)")

func (c Config) withDefaults() (Config, error) {
	if !filepath.IsAbs(c.Root) || !filepath.IsAbs(c.State) {
		return c, fmt.Errorf("the runtime's root %q and state %q must be absolute paths", c.Root, c.State)
	}
	set := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	set(&c.AssetsDir, filepath.Join(c.Root, "bin"))
	set(&c.CNIConfDir, filepath.Join(c.Root, "net.d"))
	set(&c.RegistryDir, "/etc/containerd/certs.d")
	set(&c.CgroupRoot, "/cox")
	set(&c.SandboxImage, PauseImage)
	set(&c.LogLevel, "warn")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Endpoint is the CRI address of the runtime with this configuration.
func (c Config) Endpoint() string { return "unix://" + c.socket() }

func (c Config) socket() string     { return filepath.Join(c.State, "containerd.sock") }
func (c Config) configFile() string { return filepath.Join(c.State, "config.toml") }
func (c Config) logFile() string    { return filepath.Join(c.Root, "containerd.log") }
func (c Config) cgroup() string     { return filepath.Join(c.CgroupRoot, "runtime") }

// shimSockets is the folder of the shims' sockets. containerd allows 42 bytes
// for it, so a long state path gets a folder elsewhere, named after it.
func (c Config) shimSockets() string {
	if dir := filepath.Join(c.State, "s"); len(dir) <= 42 {
		return dir
	}
	sum := sha256.Sum256([]byte(c.State))
	return fmt.Sprintf("/run/cox-s/%x", sum[:8])
}

// findOCIRuntime prefers crun, which starts a container in half the time, but
// which does not work on hybrid hosts whose v2 side holds controllers.
func findOCIRuntime() (string, error) {
	names := []string{"crun", "runc"}
	hybrid, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
	if len(bytes.TrimSpace(hybrid)) > 0 {
		names = names[1:]
	}
	for _, name := range names {
		if p, err := exec.LookPath(name); err == nil {
			return filepath.Abs(p)
		}
		// A service's PATH may lack the sbin folders.
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if p := filepath.Join(dir, name); executable(p) {
				return p, nil
			}
		}
	}
	if len(names) == 1 {
		return "", fmt.Errorf("%w; on this host, with its hybrid cgroups, only runc works", ErrNoOCIRuntime)
	}
	return "", ErrNoOCIRuntime
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// mayRaiseOOMScore tells whether this process may set an oom_score_adj lower
// than its own, which takes CAP_SYS_RESOURCE.
func mayRaiseOOMScore() bool {
	const capSysResource = 24
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<capSysResource) != 0
}

// overlayWorks tries an overlay mount under dir: in a container or on an old
// file system it may fail, and files are then copied instead.
func overlayWorks(dir string) bool {
	tmp, err := os.MkdirTemp(dir, ".overlay-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(tmp)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o700); err != nil {
			return false
		}
	}
	merged := filepath.Join(tmp, "merged")
	opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tmp)
	if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
		return false
	}
	return unix.Unmount(merged, 0) == nil
}

// Garbage is collected two seconds after something was deleted, and is not
// looked for otherwise: by default the collector wakes four times a second to
// see whether there is any, and collects as often while there is.
// The statistics periods are long because nobody needs CRI's samples: CPU
// rates are computed from the counters by who asks for them. Layers are kept
// compressed only until they are unpacked.
var configTemplate = template.Must(template.New("config").Funcs(template.FuncMap{"q": quote}).Parse(`version = 4
root = {{q .Root}}
state = {{q .State}}
oom_score = {{.OOMScore}}

[plugins.'io.containerd.server.v1.grpc']
address = {{q .Socket}}
[plugins.'io.containerd.server.v1.ttrpc']
address = {{q .TTRPC}}
[plugins.'io.containerd.shim.v1.manager']
socket_dir = {{q .ShimSockets}}
[plugins.'io.containerd.gc.v1.scheduler']
startup_delay = '10s'
deletion_threshold = 1
schedule_delay = '2s'
pause_threshold = 0.0001
[plugins.'io.containerd.metadata.v1.bolt']
content_sharing_policy = 'shared'

[plugins.'io.containerd.grpc.v1.cri']
disable_tcp_service = true
stream_server_address = '127.0.0.1'
stream_server_port = '0'
stream_idle_timeout = '4h0m0s'

[plugins.'io.containerd.cri.v1.images']
snapshotter = {{q .Snapshotter}}
discard_unpacked_layers = true
max_concurrent_downloads = 6
image_pull_progress_timeout = '5m0s'
stats_collect_period = 3600
use_local_image_pull = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = {{q .SandboxImage}}
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = {{q .RegistryDir}}

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {{.RestrictOOM}}
disable_apparmor = {{.NoAppArmor}}
tolerate_missing_hugetlb_controller = true
device_ownership_from_security_context = true
netns_mounts_under_state_dir = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
stats_collect_period = '1h'
stats_retention_period = '1h'
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{{range .CNIBinDirs}}{{q .}}, {{end}}]
conf_dir = {{q .CNIConfDir}}
max_conf_num = 1
use_internal_loopback = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
runtime_path = {{q .Shim}}
sandboxer = 'podsandbox'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = {{q .OCIRuntime}}
Root = {{q .RuncRoot}}
SystemdCgroup = false
NoNewKeyring = true
`))

// quote writes a TOML basic string, of which JSON's strings are a subset.
func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// render makes containerd's configuration. c has its defaults.
func (c Config) render(h helpers, snapshotter string) ([]byte, error) {
	restrict := !mayRaiseOOMScore()
	score := -999
	if restrict {
		score = 0
	}
	_, err := os.Stat("/sys/kernel/security/apparmor")
	var b bytes.Buffer
	err = configTemplate.Execute(&b, map[string]any{
		"Root": filepath.Join(c.Root, "containerd"), "State": filepath.Join(c.State, "containerd"),
		"Socket": c.socket(), "TTRPC": c.socket() + ".ttrpc", "ShimSockets": c.shimSockets(),
		"Snapshotter": snapshotter, "SandboxImage": c.SandboxImage, "RegistryDir": c.RegistryDir,
		"RestrictOOM": restrict, "OOMScore": score, "NoAppArmor": err != nil,
		"CNIBinDirs": append(append([]string(nil), c.CNIBinDirs...), h.shimDir), "CNIConfDir": c.CNIConfDir,
		"Shim": h.shim, "OCIRuntime": c.OCIRuntime, "RuncRoot": filepath.Join(c.State, "oci"),
	})
	return b.Bytes(), err
}
