package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/runtimetest"
)

// cluster is a node with a real container behind the API.
type cluster struct {
	*fakeNode
	rt     *runtime.Runtime
	addr   string
	config *rest.Config
}

func newCluster(t *testing.T, script string) *cluster {
	t.Helper()
	rt := runtimetest.Start(t)
	runtimetest.Import(t, rt)
	cri, images := rt.CRI()
	logs := t.TempDir()
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Uid: "uid-1", Namespace: "default"}, LogDirectory: logs,
		Labels: map[string]string{"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "uid-1"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: rt.CgroupRoot() + "/kubepods/web", SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}},
	}
	sb, err := cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cri.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, LogPath: "c.log", Image: &runtimeapi.ImageSpec{Image: runtimetest.Busybox},
		Command: []string{"sh", "-c", script}, Stdin: true, Labels: sandbox.Labels, Linux: &runtimeapi.LinuxContainerConfig{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{pod: newPod(), sandbox: sb.PodSandboxId, refs: map[string]*kubelet.ContainerRef{
		"c": {ID: c.ContainerId, Log: filepath.Join(logs, "c.log"), PodLogDir: logs, Running: true},
	}}
	certs := newCerts(t)
	addr := serve(t, certs, Config{Node: n, Runtime: cri, Images: images, RootDir: t.TempDir(),
		Authorize: func(context.Context, client.User, string, string, string) (bool, string, error) { return true, "", nil }})
	cert := certs.issue("kube-apiserver", "system:masters")
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return &cluster{n, rt, addr, &rest.Config{Host: "https://" + addr, TLSClientConfig: rest.TLSClientConfig{
		CAData: encode("CERTIFICATE", certs.ca.Raw), CertData: encode("CERTIFICATE", cert.Certificate[0]), KeyData: encode("EC PRIVATE KEY", key),
	}}}
}

func (c *cluster) url(format string, args ...any) *url.URL {
	u, err := url.Parse("https://" + c.addr + fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	return u
}

func (c *cluster) get(t *testing.T, path string) (int, string) {
	t.Helper()
	rt, err := rest.TransportFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", c.url("%s", path).String(), nil)
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestStreamsIntoAContainer(t *testing.T) {
	c := newCluster(t, `echo started; while read line; do echo "got $line"; done; sleep 1000`)
	executors := map[string]func(u *url.URL) (remotecommand.Executor, error){
		"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(c.config, "POST", u)
		},
		"WebSocket5": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(c.config, "GET", u.String())
		},
		"WebSocket4": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(c.config, "GET", u.String(), "v4.channel.k8s.io")
		},
	}
	for name, make := range executors {
		t.Run(name, func(t *testing.T) {
			run := func(u *url.URL, o remotecommand.StreamOptions) error {
				t.Helper()
				e, err := make(u)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				return e.StreamWithContext(ctx, o)
			}
			var out, errOut bytes.Buffer
			err := run(c.url("/exec/default/web/c?command=sh&command=-c&command=%s&output=1&error=1", url.QueryEscape("echo out; echo err >&2; exit 3")), remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
			var code exec.CodeExitError
			if !errors.As(err, &code) || code.Code != 3 || out.String() != "out\n" || errOut.String() != "err\n" {
				t.Errorf("exec: %q, %q, %v", out.String(), errOut.String(), err)
			}
			out.Reset()
			err = run(c.url("/exec/default/web/uid-1/c?command=echo&command=hi&tty=1&output=1"), remotecommand.StreamOptions{Stdout: &out, Tty: true})
			if err != nil || out.String() != "hi\r\n" {
				t.Errorf("exec on a terminal: %q, %v", out.String(), err)
			}
			// Only SPDY and version 5 can close standard input alone.
			if name == "WebSocket4" {
				return
			}
			out.Reset()
			big := strings.Repeat("0123456789abcdef", 1<<14)
			err = run(c.url("/exec/default/web/c?command=cat&input=1&output=1"), remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out})
			if err != nil || out.String() != big {
				t.Errorf("cat gave back %d of %d bytes, %v", out.Len(), len(big), err)
			}
		})
	}
	t.Run("attach", func(t *testing.T) {
		e, err := remotecommand.NewWebSocketExecutor(c.config, "GET", c.url("/attach/default/web/c?input=1&output=1").String())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		in, feed := io.Pipe()
		out, sink := io.Pipe()
		go e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: sink})
		go io.WriteString(feed, "a line\n")
		buf := make([]byte, len("got a line\n"))
		if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "got a line\n" {
			t.Errorf("attach: %q, %v", buf, err)
		}
		feed.Close()
		cancel()
	})
	if code, body := c.get(t, "/exec/default/web/c?command=x"); code != 400 || !strings.Contains(body, noStreams) {
		t.Errorf("no streams: %d %s", code, body)
	}
	if code, body := c.get(t, "/exec/default/other/c?command=x&output=1"); code != 404 {
		t.Errorf("another pod: %d %s", code, body)
	}
}

func TestPortForward(t *testing.T) {
	c := newCluster(t, "sleep 1000")
	// The pod shares the host's network, so the test is its server.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	tr, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	u := c.url("/portForward/default/web")
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(u, c.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{"SPDY": spdy.NewDialer(upgrader, &http.Client{Transport: tr}, "POST", u), "WebSocket": tunnel} {
		t.Run(name, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			big := strings.Repeat("x", 1<<20)
			go io.WriteString(conn, big)
			got := make([]byte, len(big))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != big {
				t.Errorf("echo: %v", err)
			}
			close(stop)
			<-done
		})
	}
}

func TestLogsAndStatistics(t *testing.T) {
	c := newCluster(t, "for i in 1 2 3; do echo line $i; done; read x; echo $x; echo bye")
	cri, _ := c.rt.CRI()
	// Follow from the beginning until the container ends by what is attached.
	type answer struct {
		code int
		body string
	}
	done := make(chan answer, 1)
	go func() {
		code, body := c.get(t, "/containerLogs/default/web/c?follow=true")
		done <- answer{code, body}
	}()

	code, body := c.get(t, "/stats/summary")
	var sum stats.Summary
	if err := json.Unmarshal([]byte(body), &sum); code != 200 || err != nil || len(sum.Pods) != 1 {
		t.Fatalf("summary: %d %v %s", code, err, body)
	}
	p := sum.Pods[0]
	if p.PodRef.Name != "web" || len(p.Containers) != 1 || p.Containers[0].CPU.UsageCoreNanoSeconds == nil || p.Containers[0].Memory.WorkingSetBytes == nil ||
		*p.Containers[0].Memory.WorkingSetBytes == 0 || sum.Node.Memory.WorkingSetBytes == nil || sum.Node.CPU == nil || sum.Node.Runtime.ImageFs == nil {
		t.Errorf("summary: %s", body)
	}
	_, body = c.get(t, "/metrics/resource")
	for _, want := range []string{"node_cpu_usage_seconds_total ", `container_memory_working_set_bytes{container="c",namespace="default",pod="web"} `,
		`pod_cpu_usage_seconds_total{namespace="default",pod="web"} `, "resource_scrape_error 0"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	// Rates are computed from when the runtime measured, not from when somebody asked.
	if !regexp.MustCompile(`\nnode_swap_usage_bytes \S+ \d{13}\n`).MatchString(body) || !regexp.MustCompile(`\ncontainer_cpu_usage_seconds_total\{[^}]*\} \S+ \d{13}\n`).MatchString(body) {
		t.Errorf("no samples with their times in\n%s", body)
	}
	if code, body := c.get(t, "/runningpods/"); code != 200 || !strings.Contains(body, `"name":"web"`) {
		t.Errorf("running pods: %d %s", code, body)
	}
	if code, body := c.get(t, "/containerLogs/default/web/other"); code != 400 || !strings.HasSuffix(body, "is waiting to start: ContainerCreating") {
		t.Errorf("log of a waiting container: %d %s", code, body)
	}

	e, err := remotecommand.NewSPDYExecutor(c.config, "POST", c.url("/attach/default/web/c?input=1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("the end\n")}); err != nil {
		t.Logf("attach: %v", err) // it ends with the container
	}
	select {
	case a := <-done:
		if a.code != 200 || a.body != "line 1\nline 2\nline 3\nthe end\nbye\n" {
			t.Errorf("followed log: %d %q", a.code, a.body)
		}
	case <-ctx.Done():
		st, _ := cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.refs["c"].ID})
		t.Fatalf("following does not end; the container is %v", st.GetStatus().GetState())
	}
	if code, body := c.get(t, "/containerLogs/default/web/c?tailLines=1"); code != 200 || body != "bye\n" {
		t.Errorf("tail: %d %q", code, body)
	}
}
