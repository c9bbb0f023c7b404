package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coxswain/cox/test/programs"
)

// TestUpIsIdempotent starts what runs already.
func TestUpIsIdempotent(t *testing.T) {
	c := sharedCluster(t)
	pid := c.pid(t)
	out := c.must(t, "up")
	if !strings.Contains(out, "running already") || !strings.Contains(out, c.kubeconfig) {
		t.Errorf("cox up, again: %s", out)
	}
	if now := c.pid(t); now != pid {
		t.Errorf("process %d was replaced by %d", pid, now)
	}
	if out := c.must(t, "status"); !strings.Contains(out, "kubelet") || strings.Contains(out, "FAILED") {
		t.Errorf("cox status: %s", out)
	}
	var status struct {
		PID   int
		Ready bool
	}
	if err := json.Unmarshal([]byte(c.must(t, "status", "--json")), &status); err != nil || status.PID != pid || !status.Ready {
		t.Errorf("cox status --json: %+v, %v", status, err)
	}
	info, err := os.Stat(c.kubeconfig)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v; want mode 0600", info.Mode(), err)
	}
}

// TestPurgeLeavesNothing compares the machine before a cluster and after it.
// Only what can be told to be this cluster's counts, since other clusters may
// come and go meanwhile.
func TestPurgeLeavesNothing(t *testing.T) {
	c := ownCluster(t)
	before := c.traces(t)
	c.must(t, "up")
	c.kubectl(t, "create", "deployment", "web", "--image=cox.local/demo:1", "--replicas=2", "--port=8080")
	c.kubectl(t, "expose", "deployment", "web", "--type=NodePort", "--port=80", "--target-port=8080")
	c.kubectl(t, "rollout", "status", "deployment/web", "--timeout=3m")
	meanwhile := c.traces(t)
	for _, kind := range []string{"process", "mount", "link", "table", "cgroup", "address", "route", "file"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(meanwhile)), func(k string) bool { return strings.HasPrefix(k, kind+" ") }) {
			t.Errorf("a running cluster has no %s: this test looks in the wrong place", kind)
		}
	}
	out := c.must(t, "down", "--purge")
	if !strings.Contains(out, "gone without a trace") {
		t.Errorf("cox down --purge: %s", out)
	}
	c.leftNothing(t, before, meanwhile)
	// Again, when there is nothing any more.
	c.must(t, "down", "--purge")
}

// TestPurgeAfterKill removes what a killed server, whose containers still run,
// leaves, told only where its data are.
func TestPurgeAfterKill(t *testing.T) {
	c := ownCluster(t)
	before := c.traces(t)
	c.must(t, "up")
	c.kubectl(t, "run", "pod", "--image=cox.local/demo:1")
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/pod", "--timeout=3m")
	meanwhile := c.traces(t)
	killServer(t, c)
	// The data directory says all else.
	if out, err := exec.Command(programs.Cox(), "down", "--purge", "--config=/dev/null", "--data-dir="+c.data).CombinedOutput(); err != nil {
		t.Errorf("cox down --purge: %v\n%s", err, out)
	}
	c.leftNothing(t, before, meanwhile)
}

// leftNothing compares a purged cluster's traces with those before it, and
// looks for what was seen while it ran.
func (c *cluster) leftNothing(t *testing.T, before, meanwhile map[string]bool) {
	t.Helper()
	for trace := range c.traces(t) {
		if !before[trace] {
			t.Errorf("left behind: %s", trace)
		}
	}
	links := output(t, "ip", "-o", "link")
	for trace := range meanwhile {
		if link, ok := strings.CutPrefix(trace, "link "); ok && strings.Contains(links, " "+link+"@") {
			t.Errorf("left behind: %s", trace)
		}
	}
}

// traces lists what is this cluster's on the machine, each with its kind.
func (c *cluster) traces(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	ours := func(s string) bool {
		if strings.Contains(s, c.data) || strings.Contains(s, "cox-"+c.name) {
			return true
		}
		for _, cidr := range []string{c.flag("cluster-cidr"), c.flag("service-cidr")} {
			if strings.Contains(" "+s, " "+strings.TrimSuffix(cidr, "0.0/16")) {
				return true
			}
		}
		return false
	}
	add := func(kind, what string) {
		if what = strings.TrimSpace(what); ours(what) {
			found[kind+" "+what] = true
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		cmdline, _ := os.ReadFile(path)
		cgroup, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		line := strings.ReplaceAll(string(cmdline), "\x00", " ")
		// What has ended and only waits for its parent is gone.
		if stat, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "stat")); bytes.Contains(stat, []byte(") Z ")) {
			continue
		}
		if ours(line) || strings.Contains(string(cgroup), "cox-"+c.name) {
			found["process "+filepath.Base(filepath.Dir(path))+" "+line] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			add("mount", f[4])
		}
	}
	for line := range strings.Lines(output(t, "ip", "-o", "address")) {
		if f := strings.Fields(line); len(f) > 3 && ours(f[3]) {
			found["address "+f[1]+" "+f[3]] = true
		}
	}
	// Pods' links carry no cluster's name: they are known by their routes.
	for line := range strings.Lines(output(t, "ip", "route", "show", "table", "all")) {
		add("route", line)
		if _, dev, ok := strings.Cut(line, " dev "); ok && ours(line) {
			if link := strings.Fields(dev)[0]; link != "lo" && link != "eth0" {
				found["link "+link] = true
			}
		}
	}
	// Every line of the rules: a table, and what names an address of ours.
	for line := range strings.Lines(output(t, "nft", "list", "tables")) {
		if strings.Contains(line, c.name) {
			found["table "+strings.TrimSpace(line)] = true
		}
	}
	for _, root := range []string{"/sys/fs/cgroup", filepath.Dir(c.data), "/run", "/var/lib", "/etc", "/var/log"} {
		kind := "file"
		if root == "/sys/fs/cgroup" {
			kind = "cgroup"
		}
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case ours(path):
				found[kind+" "+path] = true
				if d.IsDir() {
					return filepath.SkipDir
				}
			case kind == "cgroup" && !d.IsDir():
			case strings.Count(path, "/") > 6:
				return filepath.SkipDir
			}
			return nil
		})
	}
	if _, err := os.Stat(c.kubeconfig); err == nil {
		found["file "+c.kubeconfig] = true
	}
	return found
}

// flag is the value of one of the cluster's flags.
func (c *cluster) flag(name string) string {
	for _, f := range c.flags {
		if v, ok := strings.CutPrefix(f, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}
