// Command bench measures a cluster on this machine from an empty disk: how
// long until the API answers, the node is Ready and a first pod runs, and what
// the idle cluster takes. It prints one "name value unit" line per figure.
//
//	make build && sudo go run ./test/bench [-n 5] [-idle 60s] [-cox bin/cox]
//
// With "resident" it fills a large cluster and measures what holds it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Ports and ranges of the measured cluster, away from the defaults.
const (
	name        = "bench"
	port        = "26443"
	kubeletPort = "26250"
	pods        = "10.92.0.0/16"
	services    = "10.93.0.0/16"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "resident" {
		resident(os.Args[2:])
		return
	}
	runs := flag.Int("n", 5, "starts from an empty disk")
	idle := flag.Duration("idle", 60*time.Second, "how long the idle cluster is watched")
	cox := flag.String("cox", "bin/cox", "the binary to measure")
	flag.Parse()
	binary, err := filepath.Abs(*cox)
	check(err)
	var api, node, pod []float64
	for i := range *runs {
		dir, err := os.MkdirTemp("", "cox-bench-")
		check(err)
		c := &cluster{binary: binary, dir: dir}
		a, n, p := c.start()
		api, node, pod = append(api, a), append(node, n), append(pod, p)
		if i == *runs-1 {
			c.idle(*idle)
		}
		c.purge()
	}
	report("start.api-ready", api)
	report("start.node-ready", node)
	report("start.first-pod-running", pod)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func report(what string, seconds []float64) {
	sort.Float64s(seconds)
	fmt.Printf("%s.median %.3f s\n%s.max %.3f s\n", what, seconds[len(seconds)/2], what, seconds[len(seconds)-1])
}

// cluster is one cluster under measurement.
type cluster struct {
	binary, dir string
	server      *exec.Cmd
}

func (c *cluster) flags() []string {
	return []string{
		"--name=" + name, "--data-dir=" + filepath.Join(c.dir, "data"), "--write-kubeconfig=" + c.kubeconfig(),
		"--https-listen-port=" + port, "--kubelet-port=" + kubeletPort, "--cluster-cidr=" + pods, "--service-cidr=" + services,
		"--config=" + filepath.Join(c.dir, "none"),
	}
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// start runs a server and returns the seconds until the API, the node and a
// first pod were ready.
func (c *cluster) start() (api, node, pod float64) {
	check(os.WriteFile(filepath.Join(c.dir, "none"), nil, 0o600))
	r, w, err := os.Pipe()
	check(err)
	logFile, err := os.Create(filepath.Join(c.dir, "log"))
	check(err)
	defer logFile.Close()
	c.server = exec.Command(c.binary, append([]string{"server"}, c.flags()...)...)
	c.server.Env = append(os.Environ(), "COX_REPORT_FD=3")
	c.server.ExtraFiles = []*os.File{w}
	c.server.Stderr = logFile
	c.server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begin := time.Now()
	check(c.server.Start())
	w.Close()
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var step struct {
			Name, Error string
			Ready       bool
		}
		check(json.Unmarshal(lines.Bytes(), &step))
		switch {
		case step.Error != "":
			log.Fatal(step.Error)
		case step.Name == "API server":
			api = time.Since(begin).Seconds()
		case step.Ready:
			node = time.Since(begin).Seconds()
		}
		if step.Ready {
			break
		}
	}
	if node == 0 {
		log.Fatalf("the server ended before its node was ready: see %s", logFile.Name())
	}
	c.runPod()
	return api, node, time.Since(begin).Seconds()
}

// runPod runs a pod of the image that is always there, and waits for it.
func (c *cluster) runPod() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	check(err)
	api, err := kubernetes.NewForConfig(cfg)
	check(err)
	client := api.CoreV1().Pods("default")
	_, err = client.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "first"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "cox.local/pause:1"}}},
	}, metav1.CreateOptions{})
	check(err)
	w, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "first").String()})
	check(err)
	defer w.Stop()
	for ev := range w.ResultChan() {
		if p, ok := ev.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
			check(client.Delete(ctx, "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
			return
		}
	}
	log.Fatal("the first pod did not run within a minute")
}

// idle prints what the cluster takes while nothing happens: the server and
// containerd, but no shim and no pod.
func (c *cluster) idle(d time.Duration) {
	time.Sleep(15 * time.Second) // past what follows a start: settling is measured by no one
	procs := c.processes()
	before := cpu(procs)
	time.Sleep(d)
	used := cpu(procs) - before
	total := 0
	for _, p := range procs {
		kb := pss(p)
		total += kb
		fmt.Printf("idle.pss.%s %.1f MB\n", comm(p), float64(kb)/1024)
	}
	fmt.Printf("idle.pss %.1f MB\n", float64(total)/1024)
	fmt.Printf("idle.cpu %.2f %% of a core\n", 100*used.Seconds()/d.Seconds())
}

// processes are the cluster's processes: those whose command line names its
// folders, without the shims.
func (c *cluster) processes() []int {
	var out []int
	entries, err := os.ReadDir("/proc")
	check(err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.ReplaceAll(string(raw), "\x00", " ")
		ours := pid == c.server.Process.Pid || strings.Contains(args, c.dir) || strings.Contains(args, "/run/cox-"+name)
		if ours && !strings.Contains(args, "cox-shim") {
			out = append(out, pid)
		}
	}
	return out
}

func comm(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	check(err)
	return strings.TrimSpace(string(raw))
}

func pss(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	check(err)
	for _, line := range strings.Split(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			check(err)
			return kb
		}
	}
	return 0
}

// cpu sums the run time of all threads, which the kernel counts in
// nanoseconds.
func cpu(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				continue // the thread has ended
			}
			ns, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64)
			check(err)
			sum += time.Duration(ns)
		}
	}
	return sum
}

func (c *cluster) purge() {
	out, err := exec.Command(c.binary, append([]string{"down", "--purge"}, c.flags()...)...).CombinedOutput()
	if err != nil {
		log.Fatalf("purge: %v: %s", err, out)
	}
	_ = c.server.Wait()
	check(os.RemoveAll(c.dir))
}
