package swap

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/internal/mountinfo"
	"github.com/coxswain/cox/test/programs"
)

// certified shows a pod the cluster's anchors and a certificate of its own.
const certified = `
apiVersion: v1
kind: Pod
metadata: {name: certified}
spec:
  nodeName: ours
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "cox.local/busybox:1", command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes:
  - name: v
    projected:
      sources:
      - clusterTrustBundle: {name: anchors, path: anchors.pem}
      - podCertificate: {signerName: example.com/test, keyType: ECDSAP256, credentialBundlePath: credential.pem}
`

// certifying serves both kinds, which neither server does by default.
func certifying() []string {
	return []string{
		"--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true",
		"--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true,certificates.k8s.io/v1beta1/podcertificaterequests=true",
	}
}

// TestOurKubeletsCertificates has our kubelet carry out projections of trust
// bundles and pod certificates, which upstream's API server serves on demand.
func TestOurKubeletsCertificates(t *testing.T) {
	c := upstreamServer(t, certifying()...)
	c.upstreamControllers(t)
	c.apply(t, kubeletsAPI)
	c.certifies(t, false)
}

// TestOurCertificates does the same with our own server, which publishes who
// vouches for it beside.
func TestOurCertificates(t *testing.T) {
	c := coxServer(t, certifying()...)
	c.certifies(t, true) // our server speaks to no kubelet that it cannot verify
	name := "kubernetes.io:kube-apiserver-serving:"
	eventually(t, "the API server's own authority is published", func() (bool, string) {
		out, err := c.try("get", "clustertrustbundles", "--field-selector=spec.signerName=kubernetes.io/kube-apiserver-serving", "-o", "name")
		return err == nil && strings.Contains(out, name), out
	})
	eventually(t, "the pod's request goes with it", func() (bool, string) {
		out, err := c.try("get", "podcertificaterequests", "-o", "name")
		return err == nil && strings.TrimSpace(out) == "", out
	})
	// A node may look for its own pods' requests only.
	as := c.identity(t, "system:node:ours", "system:nodes")
	for selector, may := range map[string]bool{"spec.nodeName=ours": true, "spec.nodeName=other": false, "": false} {
		out, err := c.try("get", "podcertificaterequests", "-A", "--kubeconfig="+as, "--field-selector="+selector)
		if (err == nil) != may {
			t.Errorf("a node reads requests with %q: %v: %s", selector, err, out)
		}
	}
}

// certifies has our kubelet show a pod the cluster's anchors and a certificate
// of its own; the kubelet may have to ask for its serving certificate.
func (c *cluster) certifies(t *testing.T, asks bool) {
	t.Helper()
	r, cgroup := containers(t, c.pods)
	dir := t.TempDir()
	more := "cgroupRoot: " + cgroup
	if asks {
		more += "\nserverTLSBootstrap: true"
	}
	file := c.kubeletFile(t, dir, r.Endpoint(), programs.Port(t), more)
	programs.Start(t, c.cox, "kubelet", "--kubeconfig="+c.identity(t, "system:node:ours", "system:nodes"), "--config="+file,
		"--hostname-override=ours", "--root-dir="+filepath.Join(dir, "root"), "--cert-dir="+filepath.Join(dir, "certs"))
	t.Cleanup(func() { _ = mountinfo.UnmountBelow(dir) })
	eventually(t, "the node is there, and an account", func() (bool, string) {
		out, err := c.try("get", "node/ours", "serviceaccount/default", "-n", "default")
		return err == nil, out
	})
	if asks {
		c.approvesServing(t)
	}
	anchors, err := os.ReadFile(c.caFile)
	if err != nil {
		t.Fatal(err)
	}
	bundle := func(text string) string {
		quoted, _ := json.Marshal(text)
		return `{"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": "anchors"}, "spec": {"trustBundle": ` + string(quoted) + `}}`
	}
	c.apply(t, bundle(string(anchors)))
	c.apply(t, certified)
	c.signs(t)
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/certified", "--timeout=2m")
	if out := c.kubectl(t, "exec", "certified", "--", "cat", "/v/anchors.pem"); strings.TrimSpace(out) != strings.TrimSpace(string(anchors)) {
		t.Errorf("anchors: %q", out)
	}
	credential := []byte(c.kubectl(t, "exec", "certified", "--", "cat", "/v/credential.pem"))
	if first, _ := pem.Decode(credential); first == nil || first.Type != "PRIVATE KEY" {
		t.Errorf("the credential begins with %+v", first)
	}
	pair, err := tls.X509KeyPair(credential, credential)
	if err != nil || pair.Leaf.Subject.CommonName != "certified" {
		t.Errorf("credential: %v", err)
	}
	// A changed bundle reaches the running pod.
	c.kubectl(t, "delete", "clustertrustbundle", "anchors")
	other := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.sign(t, nil, true)}))
	c.apply(t, bundle(other))
	eventually(t, "the pod sees other anchors", func() (bool, string) {
		out, err := c.try("exec", "certified", "--", "cat", "/v/anchors.pem")
		return err == nil && strings.TrimSpace(out) == strings.TrimSpace(other), out
	})
	c.kubectl(t, "delete", "pod", "certified", "--timeout=1m")
}

// signs waits for a pod's request and issues what it asks for.
func (c *cluster) signs(t *testing.T) {
	t.Helper()
	var list certificatesv1beta1.PodCertificateRequestList
	eventually(t, "the kubelet asks for a certificate", func() (bool, string) {
		out, err := c.try("get", "podcertificaterequests", "-o", "json")
		return err == nil && json.Unmarshal([]byte(out), &list) == nil && len(list.Items) == 1, out
	})
	req := list.Items[0]
	csr, err := x509.ParseCertificateRequest(req.Spec.StubPKCS10Request)
	if err != nil {
		t.Fatal(err)
	}
	der := c.sign(t, csr.PublicKey, false)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{
		"conditions":       []metav1.Condition{{Type: "Issued", Status: "True", Reason: "Issued", LastTransitionTime: metav1.Now()}},
		"certificateChain": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"notBefore":        leaf.NotBefore, "notAfter": leaf.NotAfter, "beginRefreshAt": leaf.NotAfter.Add(-time.Hour),
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "patch", "podcertificaterequest", req.Name, "--subresource=status", "--type=merge", "-p", string(status))
}

// sign makes a certificate by the cluster's authority; for its own key if
// there is no other.
func (c *cluster) sign(t *testing.T, public any, authority bool) []byte {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(c.caFile, c.caKey)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = ca.Leaf.PublicKey
	}
	now := time.Now().UTC().Truncate(time.Second)
	cert := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now, NotAfter: now.Add(12 * time.Hour), IsCA: authority, BasicConstraintsValid: true}
	cert.Subject.CommonName = "certified"
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.Leaf, public, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
