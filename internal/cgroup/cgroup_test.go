package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coxswain/cox/internal/mountinfo"
)

func TestParse(t *testing.T) {
	const mounts = `24 1 0:22 / /proc rw,nosuid shared:5 - proc proc rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
34 24 0:29 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
`
	list, err := mountinfo.Parse(strings.NewReader(mounts))
	got := among(list)
	want := []Hierarchy{
		{Mount: "/sys/fs/cgroup/unified", V2: true},
		{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"name=systemd"}},
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEnterProcsRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	hs, err := Hierarchies()
	if err != nil || len(hs) == 0 {
		t.Skipf("no cgroups here: %v", err)
	}
	path := "/coxtest-" + filepath.Base(t.TempDir()) + filepath.Base(filepath.Dir(t.TempDir()))
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer Remove(path)
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	if err := Enter(path+"/a/b", cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	pids, err := Procs(path)
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
	if err := Remove(path); err == nil {
		t.Error("a busy cgroup was removed")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	for _, h := range hs {
		if _, err := os.Stat(h.Mount + path); err == nil {
			t.Errorf("%s is left", h.Mount+path)
		}
	}
	if err := Remove("/"); err == nil {
		t.Error("the root was accepted")
	}
}
