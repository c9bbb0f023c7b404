package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/apiproc"
	"github.com/coxswain/cox/test/programs"
)

// leader is a server of several on one etcd, without a node.
type leader struct {
	t          *testing.T
	dir, name  string
	args       []string
	cmd        *exec.Cmd
	out        bytes.Buffer
	kubeconfig string
}

// auditPolicy records what tells who wrote what, and under which revision.
const auditPolicy = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
{"level": "None", "verbs": ["get", "list", "watch"]},
{"level": "RequestResponse", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}], "namespaces": ["kube-system"]},
{"level": "RequestResponse", "userGroups": ["system:serviceaccounts:kube-system"]},
{"level": "None"}]}`

func newLeader(t *testing.T, name, etcd string) *leader {
	t.Helper()
	dir := t.TempDir()
	l := &leader{t: t, dir: dir, name: name, kubeconfig: filepath.Join(dir, "kubeconfig")}
	policy := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := programs.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	l.args = []string{
		"server", "--disable-agent", "--name", "t-" + name, "--node-name", name, "--data-dir", filepath.Join(dir, "data"), "--etcd-servers", etcd,
		"--https-listen-port", port, "--write-kubeconfig", l.kubeconfig, "--audit-policy-file", policy, "--audit-log-path", l.audit(),
		"--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms",
	}
	t.Cleanup(func() {
		if l.cmd != nil {
			_ = l.cmd.Process.Kill()
			_ = l.cmd.Wait()
		}
		out, err := exec.Command(programs.Cox(), "down", "--purge", "--name", "t-"+name, "--data-dir", filepath.Join(dir, "data")).CombinedOutput()
		if err != nil {
			t.Errorf("purge of %s: %v\n%s", name, err, out)
		}
		if t.Failed() {
			out := l.out.Bytes()
			t.Logf("%s: %s", name, out[max(0, len(out)-8<<10):])
		}
	})
	return l
}

func (l *leader) audit() string { return filepath.Join(l.dir, "audit.log") }

// start starts the server and waits until it answers.
func (l *leader) start() {
	l.t.Helper()
	l.cmd = exec.Command(programs.Cox(), l.args...)
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.out
	if err := l.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	eventually(l.t, l.name+" answers", func() (bool, string) {
		out, err := exec.Command(programs.Cox(), "kubectl", "--kubeconfig", l.kubeconfig, "get", "--raw", "/readyz").CombinedOutput()
		return err == nil, string(out)
	})
}

// end sends the signal and waits for the process.
func (l *leader) end(s syscall.Signal) {
	l.t.Helper()
	if err := l.cmd.Process.Signal(s); err != nil {
		l.t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil && s != syscall.SIGKILL {
		l.t.Errorf("%s ended with %v", l.name, err)
	}
	l.cmd = nil
}

func (l *leader) door() client.Interface {
	l.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig)
	if err != nil {
		l.t.Fatal(err)
	}
	cfg.QPS = -1
	d, err := client.Remote(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// births counts the pods that were ever there, by the ReplicaSet.
type births struct {
	mu   sync.Mutex
	seen map[types.UID]bool
	by   map[string]int
}

func (b *births) follow(ctx context.Context, door client.Interface, ns string) {
	eachPod(ctx, door, ns, func(p *corev1.Pod) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if ref := metav1.GetControllerOf(p); ref != nil && !b.seen[p.UID] {
			b.seen[p.UID] = true
			b.by[ref.Name]++
		}
	})
}

func (b *births) total() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen)
}

const leases = "kube-controller-manager"

func holder(door client.Interface) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l, err := client.Leases.In(door, "kube-system").Get(ctx, leases)
	if err != nil || l.Spec.HolderIdentity == nil {
		return fmt.Sprint(err)
	}
	return *l.Spec.HolderIdentity
}

// Two servers on one etcd: the one whose controllers lead is killed, ended and
// stopped in the middle of rollouts, and comes back each time. The other one
// takes over; no pod is made twice, and nobody writes without the lease.
func TestLeadersHandOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a server needs root")
	}
	if _, err := os.Stat(programs.Cox()); err != nil {
		t.Skipf("no cox to test: %v; run `make build` or set COX_BINARY", err)
	}
	const deployments, replicas = 6, 4
	etcd := apiproc.Etcd(t)
	two := []*leader{newLeader(t, "alpha", etcd), newLeader(t, "beta", etcd)}
	two[0].start()
	// Servers of one cluster share its keys; the folder's mark names the server.
	if err := os.CopyFS(filepath.Join(two[1].dir, "data"), os.DirFS(filepath.Join(two[0].dir, "data"))); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(two[1].dir, "data", "cox.json")
	text, err := os.ReadFile(mark)
	if err == nil {
		err = os.WriteFile(mark, bytes.ReplaceAll(text, []byte("t-alpha"), []byte("t-beta")), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	two[1].start()
	doors := []client.Interface{two[0].door(), two[1].door()}

	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	defer following.Wait()
	defer stop()
	const ns = "handover"
	if _, err := client.Namespaces.In(doors[0], "").Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	b := &births{seen: map[types.UID]bool{}, by: map[string]int{}}
	for _, d := range doors {
		following.Go(func() { b.follow(ctx, d, ns) })
		following.Go(func() { play(ctx, d, ns) })
	}
	eventually(t, "the namespace has its account", func() (bool, string) {
		_, err := client.ServiceAccounts.In(doors[1], ns).Get(ctx, "default")
		return err == nil, fmt.Sprint(err)
	})
	version := 0
	rollout := func(door client.Interface) (began int) {
		began = b.total()
		version++
		for i := range deployments {
			setVersion(t, door, ns, fmt.Sprintf("d%d", i), fmt.Sprintf("v%d", version), replicas)
		}
		return began
	}
	done := func(door client.Interface) {
		t.Helper()
		eventually(t, "all is rolled out", func() (bool, string) { return rolledOut(door, ns, deployments, replicas) })
	}
	// leads returns the server that leads and the other one.
	leads := func() (*leader, *leader, client.Interface) {
		t.Helper()
		var at int
		eventually(t, "one leads", func() (bool, string) {
			h := holder(doors[1])
			at = slices.IndexFunc(two, func(l *leader) bool { return strings.HasPrefix(h, l.name+"_") })
			return at >= 0, h
		})
		return two[at], two[1-at], doors[1-at]
	}
	middle := func(began int) {
		t.Helper()
		eventually(t, "pods are being made", func() (bool, string) { n := b.total() - began; return n >= 5, strconv.Itoa(n) })
	}
	rollout(doors[0])
	done(doors[0])
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP} {
		first, second, door := leads()
		middle(rollout(door))
		t.Logf("%s leads and gets %v", first.name, how)
		if how == syscall.SIGSTOP {
			if err := first.cmd.Process.Signal(how); err != nil {
				t.Fatal(err)
			}
		} else {
			first.end(how)
		}
		eventually(t, second.name+" takes over", func() (bool, string) { h := holder(door); return strings.HasPrefix(h, second.name+"_"), h })
		if how == syscall.SIGSTOP {
			middle(b.total() - 5)
			if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		} else {
			first.start()
		}
		done(door)
	}
	// One more, of which the one that came back sees everything.
	_, _, door := leads()
	rollout(door)
	done(door)
	stop()
	following.Wait()
	b.mu.Lock()
	for set, n := range b.by {
		if n != replicas {
			t.Errorf("ReplicaSet %s has made %d pods, want %d", set, n, replicas)
		}
	}
	if len(b.by) != version*deployments {
		t.Errorf("%d ReplicaSets have made pods, want %d", len(b.by), version*deployments)
	}
	b.mu.Unlock()
	checkTrail(t, two)
}

// entry is what the audit trail says of a write that succeeded.
type entry struct {
	server, user, what string
	rv                 int64
	holder             string // of the lease, in the lease's writes
}

// checkTrail puts the writes of all servers into the order of their revisions:
// controllers write through the server that holds the lease at that point.
func checkTrail(t *testing.T, servers []*leader) {
	t.Helper()
	var all []entry
	for _, l := range servers {
		all = append(all, trail(t, l)...)
	}
	slices.SortFunc(all, func(a, b entry) int { return int(a.rv - b.rv) })
	held, writes := "", map[string]int{}
	for _, e := range all {
		if e.holder != "" {
			held, _, _ = strings.Cut(strings.TrimPrefix(e.holder, "="), "_") // NODE_hash
			continue
		}
		writes[e.server]++
		if e.server != held {
			t.Errorf("revision %d: %s by %s through %s, while the lease is held by %q", e.rv, e.what, e.user, e.server, held)
		}
	}
	for _, l := range servers {
		if writes[l.name] == 0 {
			t.Errorf("%s has written nothing", l.name)
		}
	}
	t.Logf("writes of controllers by server: %v", writes)
}

func trail(t *testing.T, l *leader) []entry {
	t.Helper()
	f, err := os.Open(l.audit())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Verb           string
			User           struct{ Username string }
			ObjectRef      struct{ Resource, Name, Subresource string }
			ResponseStatus struct{ Code int }
			ResponseObject json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the line that was being written when the server was killed
		}
		var o struct {
			Metadata struct{ ResourceVersion string }
			Spec     coordinationv1.LeaseSpec
		}
		if e.ResponseStatus.Code >= 300 || e.Verb == "delete" || e.ObjectRef.Resource == "events" || json.Unmarshal(e.ResponseObject, &o) != nil {
			continue
		}
		rv, err := strconv.ParseInt(o.Metadata.ResourceVersion, 10, 64)
		if err != nil {
			continue
		}
		it := entry{server: l.name, user: e.User.Username, what: strings.Join([]string{e.Verb, e.ObjectRef.Resource, e.ObjectRef.Name, e.ObjectRef.Subresource}, " "), rv: rv}
		if e.ObjectRef.Resource == "leases" {
			if e.ObjectRef.Name != leases && e.User.Username != "system:kube-controller-manager" {
				continue
			}
			it.holder = "="
			if o.Spec.HolderIdentity != nil {
				it.holder += *o.Spec.HolderIdentity
			}
		}
		out = append(out, it)
	}
	return out
}
