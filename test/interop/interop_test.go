// Package interop_test puts cox and Kubernetes' own binaries of the same
// version together: each opens the etcd data of the other's API server, and
// Kubernetes' controllers and scheduler work through cox's API server. It needs
// bin/cox (COX_BINARY names another), and in the folder that COX_UPSTREAM names
// kube-apiserver, kube-controller-manager and kube-scheduler; without them the
// tests are skipped.
package interop_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/coxswain/cox/test/programs"
)

const (
	patience   = 2 * time.Minute
	services   = "10.121.0.0/16"
	pods       = "10.120.0.0/16"
	adminToken = "interop-admin"
	kcmToken   = "interop-kcm"
	schedToken = "interop-scheduler"
	tokens     = adminToken + ",admin,admin,\"system:masters\"\n" +
		kcmToken + ",system:kube-controller-manager,kcm\n" +
		schedToken + ",system:kube-scheduler,scheduler\n"
)

// eventually waits until check is content.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	programs.Eventually(t, patience, what, func() (bool, string) {
		err := check(t.Context())
		return err == nil, fmt.Sprint(err)
	})
}

// world is the folder that servers of either make share, one after the other.
type world struct {
	t    *testing.T
	dir  string
	name string // of cox's cluster
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), name: fmt.Sprintf("i%d", os.Getpid())}
	if err := os.WriteFile(w.path("tokens.csv"), []byte(tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// server is an API server that answers.
type server struct {
	*programs.Process
	url string
}

// config is how the bearer of a token reaches the server.
func (s *server) config(token string) *rest.Config {
	return &rest.Config{Host: s.url, BearerToken: token, QPS: -1, UserAgent: "interop", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

// kubeconfig writes config(token) into a file.
func (w *world) kubeconfig(s *server, token string) string {
	w.t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: s.url, InsecureSkipTLSVerify: true}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "c"
	path := w.path(token + ".kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) ready(p *programs.Process, port string) *server {
	w.t.Helper()
	s := &server{Process: p, url: "https://127.0.0.1:" + port}
	door, err := rest.HTTPClientFor(s.config(adminToken))
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the API server is ready", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return fmt.Errorf("it has ended: %s", p.Output())
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := door.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return s
}

// ours starts cox's API server, with nothing else, on its own etcd.
func (w *world) ours() *server {
	w.t.Helper()
	port := programs.Port(w.t)
	return w.ready(programs.Start(w.t, programs.NeedCox(w.t), "server", "--name", w.name, "--data-dir", w.path("data"),
		"--https-listen-port", port, "--kubelet-port", programs.Port(w.t), "--cluster-cidr", pods, "--service-cidr", services,
		"--write-kubeconfig", w.path("kubeconfig"), "--token-auth-file", w.path("tokens.csv"),
		"--disable-agent", "--disable-controller-manager", "--disable-scheduler"), port)
}

// theirs starts Kubernetes' API server on an etcd, with the keys of our folder.
func (w *world) theirs(etcd string) *server {
	w.t.Helper()
	port, key := programs.Port(w.t), w.path("data", "pki", "sa.key")
	return w.ready(programs.Start(w.t, programs.NeedUpstream(w.t, "kube-apiserver"), "--etcd-servers", etcd, "--secure-port", port,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", w.path("certs"),
		"--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--token-auth-file", w.path("tokens.csv"), "--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", services), port)
}
