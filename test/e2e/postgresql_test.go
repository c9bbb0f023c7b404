package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/coxswain/cox/examples/postgresql"
)

// TestPostgreSQL has examples/postgresql lose its members, roll to a new
// image and lose a node, while a client writes: no row that was acknowledged
// may be missing afterwards, in the primary or in its replica. Its steps
// build on one another.
func TestPostgreSQL(t *testing.T) {
	c := ownCluster(t)
	d := deployDatabase(t, c)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"lost replica", func(t *testing.T) { d.losePod(t, 1) }},
		{"lost primary", func(t *testing.T) { d.losePod(t, 0) }},
		{"new version", d.roll},
		{"lost node", d.loseNode},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			step.run(t)
			d.check(t)
		})
		if !ok {
			t.Fatalf("pods:\n%s\nevents:\n%s\nwriter:\n%s", c.kubectl(t, "get", "pods", "-o", "wide"),
				c.kubectl(t, "get", "events"), c.kubectl(t, "logs", "writer", "--tail=20"))
		}
	}
}

// database is the example in a cluster of two nodes, and a pod that writes to
// it.
type database struct {
	*cluster
	first, second string // nodes
}

// The writer counts, and prints a number once the row with it was committed.
// A commit that it does not know the end of is tried again.
const writer = `
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
    - name: writer
      image: example.local/postgresql:1
      env:
        - {name: TO, value: host=postgresql-primary user=postgres connect_timeout=3 tcp_user_timeout=3000}
        - {name: PGPASSWORD, valueFrom: {secretKeyRef: {name: postgresql, key: password}}}
      command:
        - sh
        - -c
        - |
          until psql "$TO" -qc 'create table if not exists rows (n int primary key)'; do sleep 0.2; done
          n=0
          while :; do
            n=$((n+1))
            until psql "$TO" -qc "insert into rows values ($n) on conflict do nothing"; do sleep 0.2; done
            echo "$n"
          done
`

func deployDatabase(t *testing.T, c *cluster) *database {
	t.Helper()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) == 0 {
		t.Skip("postgres is not installed, which the image is made of: apt-get install postgresql")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("busybox is not installed, which the image is made of: apt-get install busybox-static")
	}
	archives := filepath.Join(c.data, "images") // of both nodes
	if err := os.MkdirAll(archives, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := postgresql.Images(filepath.Join(archives, "postgresql.tar")); err != nil {
		t.Fatal(err)
	}
	d := &database{cluster: c}
	d.first, d.second = twoNodes(t, c)
	c.kubectl(t, "create", "secret", "generic", "postgresql", "--from-literal=password=of this test alone")
	c.kubectl(t, "apply", "-f", "../../examples/postgresql/postgresql.yaml")
	eventually(t, "default service account", func() (bool, string) {
		out, err := c.try("get", "serviceaccount", "default")
		return err == nil, out
	})
	pod := filepath.Join(c.dir, "writer.yaml")
	if err := os.WriteFile(pod, fmt.Appendf(nil, writer, d.first), 0o644); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "apply", "-f", pod)
	d.settled(t)
	if a, b := d.nodeOf(t, 0), d.nodeOf(t, 1); a == b {
		t.Fatalf("both members are on %s", a)
	}
	d.check(t)
	return d
}

func (d *database) settled(t *testing.T) {
	t.Helper()
	d.kubectl(t, "rollout", "status", "statefulset/postgresql", "--timeout=3m")
	d.kubectl(t, "wait", "--for=condition=Ready", "pod/postgresql-0", "pod/postgresql-1", "--timeout=3m")
}

func (d *database) nodeOf(t *testing.T, member int) string {
	t.Helper()
	return d.kubectl(t, "get", "pod", name(member), "-o", "jsonpath={.spec.nodeName}")
}

func (d *database) uid(t *testing.T, member int) string {
	t.Helper()
	return d.kubectl(t, "get", "pod", name(member), "-o", "jsonpath={.metadata.uid}")
}

func name(member int) string { return fmt.Sprintf("postgresql-%d", member) }

// acknowledged is the number of rows that the writer was told are safe.
func (d *database) acknowledged() (int, error) {
	out, err := d.try("logs", "writer", "--tail=1")
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// check waits until more rows are written than there were, and then finds all
// of them in both members.
func (d *database) check(t *testing.T) {
	t.Helper()
	var begin, rows int
	eventually(t, "the writer to have written", func() (bool, string) {
		n, err := d.acknowledged()
		begin = n
		return err == nil, fmt.Sprint(err)
	})
	eventually(t, "the writer to write on", func() (bool, string) {
		n, err := d.acknowledged()
		rows = n
		return err == nil && n > begin, fmt.Sprintf("%d rows, %d before, %v", n, begin, err)
	})
	for member := range 2 {
		eventually(t, name(member)+" to have all rows", func() (bool, string) {
			out, err := d.try("exec", name(member), "-c", "postgresql", "--", "psql", "-U", "postgres", "-Atc", fmt.Sprintf("select count(*) from rows where n <= %d", rows))
			return err == nil && strings.TrimSpace(out) == strconv.Itoa(rows), fmt.Sprintf("%s of %d, %v", strings.TrimSpace(out), rows, err)
		})
	}
	t.Logf("%d rows", rows)
}

func (d *database) losePod(t *testing.T, member int) {
	before := d.uid(t, member)
	d.kubectl(t, "delete", "pod", name(member))
	eventually(t, "another pod of the same name", func() (bool, string) {
		out, err := d.try("get", "pod", name(member), "-o", "jsonpath={.metadata.uid}")
		return err == nil && out != before, out
	})
	d.settled(t)
}

func (d *database) roll(t *testing.T) {
	d.kubectl(t, "set", "image", "statefulset/postgresql", "*=example.local/postgresql:2")
	d.settled(t)
	for member := range 2 {
		if v := d.kubectl(t, "exec", name(member), "-c", "postgresql", "--", "cat", "/srv/version"); strings.TrimSpace(v) != "2" {
			t.Errorf("%s runs version %q", name(member), v)
		}
	}
}

// loseNode ends all that runs on the second node, as if it had lost its power,
// replaces the pod that was there, and lets the node come back.
func (d *database) loseNode(t *testing.T) {
	member := 0
	if d.nodeOf(t, 1) == d.second {
		member = 1
	}
	other := d.uid(t, 1-member)
	killAgent(t, d.cluster)
	d.killAll(t, "cox-"+d.cluster.name+"-2")
	d.kubectl(t, "wait", "--for=condition=Ready=Unknown", "node/"+d.second, "--timeout=3m")
	d.kubectl(t, "wait", "--for=condition=Ready=false", "pod/"+name(member), "--timeout=1m")
	before := d.uid(t, member)
	// What an administrator does who knows that the node is down.
	d.kubectl(t, "delete", "pod", name(member), "--force", "--grace-period=0")
	eventually(t, "a pod in place of the lost one", func() (bool, string) {
		out, err := d.try("get", "pod", name(member), "-o", "jsonpath={.metadata.uid}")
		return err == nil && out != before, out
	})
	d.must(t, "up", "--nodes=2")
	d.kubectl(t, "wait", "--for=condition=Ready", "node/"+d.second, "--timeout=3m")
	d.settled(t)
	if at := d.nodeOf(t, member); at != d.second {
		t.Errorf("%s is on %s, away from its data on %s", name(member), at, d.second)
	}
	if d.uid(t, 1-member) != other {
		t.Errorf("%s, which lost nothing, was replaced", name(1-member))
	}
}

// killAll kills every process in a node's cgroup.
func (d *database) killAll(t *testing.T, cgroup string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(raw), "/"+cgroup+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			killed++
		}
	}
	if killed < 3 { // containerd, a shim, a container
		t.Fatalf("only %d processes are in cgroup %s", killed, cgroup)
	}
}
