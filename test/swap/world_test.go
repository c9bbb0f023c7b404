// Package swap puts components of cox and of Kubernetes itself together, as
// real processes: upstream's kubelet and controller manager with our API
// server, our kubelet, agent and controllers with upstream's. It needs
// upstream's programs (1.36: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, kubelet) in the folder that COX_UPSTREAM names, and bin/cox
// (see `make build`; COX_BINARY names another).
package swap

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/test/programs"
)

// patience is how long any one thing may take on a machine that does a lot
// else.
const patience = 3 * time.Minute

// cluster is an API server that components join.
type cluster struct {
	dir, url, kubeconfig, cox string
	ca                        *pki.CA
	caFile, caKey, accountKey string
	pods, services            string // ranges
}

func newCluster(t *testing.T) (c *cluster, port string) {
	t.Helper()
	port = programs.Port(t)
	c = &cluster{dir: t.TempDir(), cox: programs.NeedCox(t), url: "https://127.0.0.1:" + port}
	c.kubeconfig = filepath.Join(c.dir, "admin.kubeconfig")
	var err error
	if c.pods, c.services, err = programs.FreeRanges(); err != nil {
		t.Skip(err)
	}
	return c, port
}

// certificates are those of a folder that pki.Ensure has filled.
func (c *cluster) certificates(t *testing.T, dir string) {
	t.Helper()
	c.caFile, c.caKey, c.accountKey = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), filepath.Join(dir, "sa.key")
	ca, err := pki.LoadCA(c.caFile, c.caKey)
	if err != nil {
		t.Fatal(err)
	}
	c.ca = ca
}

// coxServer starts our control plane without a node.
func coxServer(t *testing.T, flags ...string) *cluster {
	t.Helper()
	c, port := newCluster(t)
	name, data := fmt.Sprintf("i%d", os.Getpid()), filepath.Join(c.dir, "data")
	// It ends after the processes that are started later.
	t.Cleanup(func() {
		if out, err := exec.Command(c.cox, "down", "--purge", "--config=/dev/null", "--name="+name, "--data-dir="+data).CombinedOutput(); err != nil {
			t.Errorf("purge: %v\n%s", err, out)
		}
	})
	programs.Start(t, c.cox, append([]string{
		"server", "--disable-agent", "--config=/dev/null", "--name=" + name, "--data-dir=" + data, "--write-kubeconfig=" + c.kubeconfig,
		"--https-listen-port=" + port, "--cluster-cidr=" + c.pods, "--service-cidr=" + c.services,
	}, flags...)...)
	c.answers(t)
	c.certificates(t, filepath.Join(data, "pki"))
	return c
}

// upstreamServer starts upstream's API server and etcd, with the same
// certificates as ours has.
func upstreamServer(t *testing.T, flags ...string) *cluster {
	t.Helper()
	api, etcd := programs.NeedUpstream(t, "kube-apiserver"), programs.NeedUpstream(t, "etcd")
	c, port := newCluster(t)
	dir := filepath.Join(c.dir, "pki")
	first, _, err := net.ParseCIDR(c.services)
	if err != nil {
		t.Fatal(err)
	}
	first[len(first)-1] |= 1
	b, err := pki.Ensure(dir, pki.Config{Hostname: "localhost", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, ServiceIPs: []net.IP{first}})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][2]string{}
	for name, leaf := range map[string]*pki.Leaf{"server": b.APIServer, "kubelet": b.KubeletClient, "proxy": b.FrontProxyClient} {
		cert, key, err := leaf.Files()
		if err != nil {
			t.Fatal(err)
		}
		files[name] = [2]string{cert, key}
	}
	// Whoever joins by a token wants to see the authority as well.
	chain, _, err := b.APIServer.PEM()
	if err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(c.dir, "served.crt")
	if err := os.WriteFile(served, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	c.certificates(t, dir)
	peer, clients := "http://127.0.0.1:"+programs.Port(t), "http://127.0.0.1:"+programs.Port(t)
	programs.Start(t, etcd, "--data-dir="+filepath.Join(c.dir, "etcd"), "--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--log-level=warn")
	programs.Start(t, api, append([]string{"--etcd-servers=" + clients, "--secure-port=" + port, "--bind-address=0.0.0.0", "--cert-dir=" + filepath.Join(c.dir, "certs"),
		"--client-ca-file=" + c.caFile, "--tls-cert-file=" + served, "--tls-private-key-file=" + files["server"][1],
		"--kubelet-client-certificate=" + files["kubelet"][0], "--kubelet-client-key=" + files["kubelet"][1],
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file=" + filepath.Join(dir, "sa.pub"), "--service-account-signing-key-file=" + c.accountKey,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range=" + c.services,
		"--authorization-mode=Node,RBAC", "--enable-bootstrap-token-auth", "--enable-admission-plugins=NodeRestriction",
		"--requestheader-client-ca-file=" + filepath.Join(dir, "front-proxy-ca.crt"), "--requestheader-allowed-names=" + pki.FrontProxyUser,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + files["proxy"][0], "--proxy-client-key-file=" + files["proxy"][1]}, flags...)...)
	cert, key, err := b.Admin.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteKubeconfig(c.kubeconfig, c.url, b.CA.PEM(), cert, key); err != nil {
		t.Fatal(err)
	}
	c.answers(t)
	return c
}

func (c *cluster) answers(t *testing.T) {
	t.Helper()
	eventually(t, "the API server answers", func() (bool, string) {
		out, err := c.try("get", "--raw", "/readyz")
		return err == nil, out
	})
}

// identity writes a kubeconfig of a user.
func (c *cluster) identity(t *testing.T, user string, groups ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := c.ca.Issue(pki.Spec{CommonName: user, Organizations: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, crypto.PublicKey(&key.PublicKey), time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.dir, strings.NewReplacer(":", "-", "/", "-").Replace(user)+".kubeconfig")
	err = pki.WriteKubeconfig(path, c.url, c.ca.PEM(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// upstreamControllers starts upstream's controller manager.
func (c *cluster) upstreamControllers(t *testing.T, flags ...string) {
	t.Helper()
	programs.Start(t, programs.NeedUpstream(t, "kube-controller-manager"), append([]string{
		"--kubeconfig=" + c.identity(t, "system:kube-controller-manager"), "--use-service-account-credentials", "--secure-port=0",
		"--root-ca-file=" + c.caFile, "--service-account-private-key-file=" + c.accountKey,
		"--cluster-signing-cert-file=" + c.caFile, "--cluster-signing-key-file=" + c.caKey,
		"--allocate-node-cidrs", "--cluster-cidr=" + c.pods, "--cert-dir=" + filepath.Join(c.dir, "certs"),
	}, flags...)...)
}

func (c *cluster) upstreamScheduler(t *testing.T) {
	t.Helper()
	programs.Start(t, programs.NeedUpstream(t, "kube-scheduler"), "--kubeconfig="+c.identity(t, "system:kube-scheduler"), "--secure-port=0", "--cert-dir="+filepath.Join(c.dir, "certs"))
}

// kubectl runs our kubectl as administrator; it must succeed.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *cluster) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.cox, append([]string{"kubectl", "--kubeconfig=" + c.kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String() + complaint.String(), err
	}
	return out.String(), nil
}

func (c *cluster) apply(t *testing.T, manifest string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "apply", "-f", path)
}

// eventually waits until ask returns a good answer, and fails with the last
// bad one.
func eventually(t *testing.T, what string, ask func() (good bool, answer string)) {
	t.Helper()
	programs.Eventually(t, patience, what, ask)
}
