package server

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// The streams of a process, in the parameters of the kubelet's API and in
// those of the Pod API.
type streamOptions struct {
	stdin, stdout, stderr, tty bool
	command                    []string
}

func streamOptionsOf(q url.Values) streamOptions {
	on := func(names ...string) bool {
		for _, n := range names {
			if b, err := strconv.ParseBool(q.Get(n)); err == nil && b {
				return true
			}
		}
		return false
	}
	o := streamOptions{
		stdin: on("input", "stdin"), stdout: on("output", "stdout"), stderr: on("error", "stderr"),
		tty: on("tty"), command: q["command"],
	}
	// A terminal has one output.
	o.stderr = o.stderr && !o.tty
	return o
}

func (o streamOptions) any() bool { return o.stdin || o.stdout || o.stderr }

const noStreams = "you must specify at least 1 of stdin, stdout, stderr"

// runningContainer finds the container of a request, or answers that there is
// none.
func (s *Server) runningContainer(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	namespace, pod, name := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	if _, found := s.cfg.Node.Pod(namespace, pod, r.PathValue("uid")); !found {
		refuse(w, fmt.Sprintf("pod %q does not exist", pod), http.StatusNotFound)
		return "", false
	}
	c, err := s.cfg.Node.Container(namespace, pod, r.PathValue("uid"), name, false)
	if err != nil {
		refuse(w, err.Error(), http.StatusNotFound)
		return "", false
	}
	if !c.Running {
		refuse(w, fmt.Sprintf("container %q in pod %q is not running", name, pod), http.StatusInternalServerError)
		return "", false
	}
	return c.ID, true
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	o := streamOptionsOf(r.URL.Query())
	if !o.any() {
		refuse(w, noStreams, http.StatusBadRequest)
		return
	}
	id, ok := s.runningContainer(w, r)
	if !ok {
		return
	}
	res, err := s.cfg.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: o.command, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty,
	})
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.remoteCommand(w, r, res.Url, o)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	o := streamOptionsOf(r.URL.Query())
	if !o.any() {
		refuse(w, noStreams, http.StatusBadRequest)
		return
	}
	id, ok := s.runningContainer(w, r)
	if !ok {
		return
	}
	res, err := s.cfg.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: id, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty,
	})
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.remoteCommand(w, r, res.Url, o)
}

// remoteCommand joins the client with the runtime's streaming server. SPDY
// passes through as it is; WebSockets are translated to it.
func (s *Server) remoteCommand(w http.ResponseWriter, r *http.Request, to string, o streamOptions) {
	u, err := url.Parse(to)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		s.translateCommand(w, r, u, o)
		return
	}
	s.passThrough(w, r, u)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.PathValue("namespace"), r.PathValue("pod")
	if _, ok := s.cfg.Node.Pod(namespace, pod, r.PathValue("uid")); !ok {
		refuse(w, fmt.Sprintf("pod %q does not exist", pod), http.StatusNotFound)
		return
	}
	id, _, err := s.cfg.Node.Sandbox(namespace, pod, r.PathValue("uid"))
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	req := &runtimeapi.PortForwardRequest{PodSandboxId: id}
	for _, p := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			refuse(w, fmt.Sprintf("port %q must be a number from 1 to 65535", p), http.StatusBadRequest)
			return
		}
		req.Port = append(req.Port, int32(n))
	}
	res, err := s.cfg.Runtime.PortForward(r.Context(), req)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	u, err := url.Parse(res.Url)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		s.tunnel(w, r, u)
		return
	}
	s.passThrough(w, r, u)
}

// passThrough sends the request to the runtime's streaming server and joins
// the connections once it has switched protocols.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request, to *url.URL) {
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second}
	defer t.CloseIdleConnections()
	p := &httputil.ReverseProxy{
		Transport: t,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = to, to.Host
			p.Out.Header.Del("Authorization") // nothing of the client's own
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				refuse(w, "the container runtime's streaming server: "+err.Error(), http.StatusInternalServerError)
			}
		},
	}
	p.ServeHTTP(w, r)
}

// run runs a command to its end and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, ok := s.runningContainer(w, r)
	if !ok {
		return
	}
	cmd := r.URL.Query()["cmd"]
	if len(cmd) == 1 {
		cmd = strings.Fields(cmd[0])
	}
	res, err := s.cfg.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd})
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := append(res.Stdout, res.Stderr...)
	if res.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
		out = append(out, fmt.Sprintf("command terminated with exit code %d\n", res.ExitCode)...)
	}
	_, _ = w.Write(out)
}
