package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coxswain/cox/test/programs"
)

// TestKubectl runs the scripts of testdata, side by side, with the kubectl
// inside cox and, if there is one, with that of PATH. Each script has a namespace of its own
// and these commands beside testscript's:
//
//	until REGEXP COMMAND ARG...  run the command until its output matches
func TestKubectl(t *testing.T) {
	c := sharedCluster(t)
	c.images(t)
	for i, kubectl := range kubectls() {
		t.Run(kubectl.name, func(t *testing.T) { scripts(t, c, "testdata", i, kubectl.script) })
	}
}

// TestNode runs the scripts that change the node, which other tests would
// notice.
func TestNode(t *testing.T) {
	c := sharedCluster(t)
	for i, kubectl := range kubectls() {
		t.Run(kubectl.name, func(t *testing.T) { scripts(t, c, "testdata/alone", i, kubectl.script) })
	}
}

type kubectl struct{ name, script string }

// kubectls are the kubectl inside cox and that of PATH.
func kubectls() []kubectl {
	list := []kubectl{{"embedded", "#!/bin/sh\nexec " + programs.Cox() + " kubectl \"$@\"\n"}}
	if path, err := exec.LookPath("kubectl"); err == nil {
		list = append(list, kubectl{"path", "#!/bin/sh\nexec " + path + " \"$@\"\n"})
	}
	return list
}

// scripts runs the scripts of a folder with a kubectl, the i-th.
func scripts(t *testing.T, c *cluster, folder string, i int, kubectl string) {
	config, err := os.ReadFile(c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 folder,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			work := env.WorkDir
			namespace := fmt.Sprintf("k%d-", i) + strings.NewReplacer("script-", "", "_", "-").Replace(filepath.Base(work))
			kubeconfig := filepath.Join(work, ".kubeconfig")
			if err := os.WriteFile(kubeconfig, config, 0o600); err != nil {
				return err
			}
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("KUBECONFIG", kubeconfig)
			env.Setenv("HOME", work)
			env.Setenv("NS", namespace)
			env.Setenv("NODE", strings.TrimSpace(c.nodeName()))
			for _, args := range [][]string{
				{"create", "namespace", namespace},
				{"config", "set-context", "--current", "--namespace=" + namespace, "--kubeconfig=" + kubeconfig},
			} {
				if out, err := c.try(args...); err != nil {
					return fmt.Errorf("kubectl %v: %w: %s", args, err, out)
				}
			}
			env.Defer(func() { _, _ = c.try("delete", "namespace", namespace, "--wait=false") })
			deadline := time.Now().Add(patience)
			for {
				out, err := c.try("-n", namespace, "get", "serviceaccount", "default")
				if err == nil {
					return nil
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("no default service account: %w: %s", err, out)
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"until": until},
	})
}

// nodeName is the name of the cluster's one node.
func (c *cluster) nodeName() string {
	out, _ := c.try("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	return out
}

// until runs a command until what it prints matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: until REGEXP COMMAND ARG...")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(patience)
	for {
		cmd := exec.Command("sh", append([]string{"-c", `exec "$@"`, "sh"}, args[1:]...)...)
		cmd.Dir = ts.Getenv("WORK")
		for _, name := range []string{"PATH", "KUBECONFIG", "HOME", "NS"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		out, _ := cmd.CombinedOutput()
		if re.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still no match for %q after %v in:\n%s", args[0], patience, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
