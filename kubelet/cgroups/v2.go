package cgroups

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/coxswain/cox/internal/cgroup"
)

// v2 has one hierarchy; a controller works in a group only when the group
// above has enabled it for its children.
type v2 struct {
	mount string
	// lent says that what is enabled in the root is to be given back: on a
	// hybrid host nobody expects controllers in this hierarchy.
	lent bool
}

func (a *v2) name() string { return "v2" }

func (a *v2) create(group string) error {
	dir := a.mount
	for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
		added, err := enable(dir)
		if err != nil {
			return err
		}
		if a.lent && dir == a.mount && len(added) > 0 {
			// Where nothing can be noted, they stay enabled.
			_ = cgroup.NoteEnabled(dir, added...)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// The pod's containers come below: they need the controllers too.
	_, err := enable(dir)
	return err
}

// wanted are the controllers that pods need.
var wanted = []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}

// enable turns on for the children of a group what is wanted, available and
// not on yet, and returns what that was.
func enable(dir string) (added []string, err error) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return nil, err
	}
	available, enabled := set(string(have)), set(string(on))
	for _, c := range wanted {
		if available[c] && !enabled[c] {
			added = append(added, c)
		}
	}
	if len(added) == 0 {
		return nil, nil
	}
	if err := write(dir, "cgroup.subtree_control", "+"+strings.Join(added, " +")); err != nil {
		return nil, fmt.Errorf("enable the controllers %s in %s: %w", strings.Join(added, " "), dir, err)
	}
	return added, nil
}

func set(s string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(s) {
		out[w] = true
	}
	return out
}

// weight turns shares (2 to 262144) into a weight (1 to 10000) as KEP-2254 has
// it now, and as runc 1.3.2 and crun 1.23 do: a curve through both ends that
// has the defaults, 1024 shares and weight 100, meet.
func weight(shares int64) int64 {
	l := math.Log2(float64(min(max(shares, 2), 262144)))
	// The exponents at the ends are 0 and 4; do not let rounding exceed them.
	return int64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34) - 1e-9))
}

func (a *v2) set(group string, r Resources) error {
	dir := filepath.Join(a.mount, group)
	var errs []error
	if r.CPUShares > 0 {
		errs = append(errs, writeInt(dir, "cpu.weight", weight(r.CPUShares)))
	}
	if r.CPUQuota > 0 {
		errs = append(errs, write(dir, "cpu.max", fmt.Sprintf("%d %d", r.CPUQuota, r.CPUPeriod)))
	}
	if r.Memory > 0 {
		errs = append(errs, writeInt(dir, "memory.max", r.Memory))
	}
	if r.Pids > 0 {
		errs = append(errs, writeInt(dir, "pids.max", r.Pids))
	}
	return errors.Join(errs...)
}

func (a *v2) remove(group string) error { return removeTree(filepath.Join(a.mount, group)) }

func (a *v2) children(group string) ([]string, error) { return listDirs(filepath.Join(a.mount, group)) }
