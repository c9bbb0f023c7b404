package podcerts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// served is an API with bundles, requests and their signer, a node and an
// account.
type served struct {
	mu       sync.Mutex
	bundles  []*certificatesv1beta1.ClusterTrustBundle
	changes  *watch.FakeWatcher
	requests []*certificatesv1beta1.PodCertificateRequest
	sign     func(*certificatesv1beta1.PodCertificateRequest)
}

func (s *served) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &client.ListResult{ResourceVersion: "5"}
	switch what := req.Resource.Resource + " " + string(req.Verb); what {
	case "clustertrustbundles list":
		for _, b := range s.bundles {
			list.Items = append(list.Items, b)
		}
		return &client.Result{List: list}, nil
	case "nodes get":
		return &client.Result{Object: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node-uid"}}}, nil
	case "serviceaccounts get":
		return &client.Result{Object: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: req.Name, UID: "account-uid"}}}, nil
	case "podcertificaterequests create":
		r := req.Object.(*certificatesv1beta1.PodCertificateRequest).DeepCopy()
		r.Name = fmt.Sprint(r.GenerateName, len(s.requests))
		s.requests = append(s.requests, r)
		return &client.Result{Object: r.DeepCopy(), Created: true}, nil
	case "podcertificaterequests list":
		for _, r := range s.requests {
			if sel := req.Options.FieldSelector.String(); strings.Contains(sel, "metadata.name="+r.Name) && strings.Contains(sel, "spec.nodeName=n") {
				list.Items = append(list.Items, r.DeepCopy())
			}
		}
		return &client.Result{List: list}, nil
	default:
		return nil, fmt.Errorf("not served: %s", what)
	}
}

func (s *served) Watch(_ context.Context, req *client.Request) (watch.Interface, error) {
	if req.Resource.Resource == "clustertrustbundles" {
		if req.Options.SendInitialEvents != nil {
			for _, b := range s.bundles {
				s.changes.Add(b)
			}
			s.changes.Action(watch.Bookmark, &certificatesv1beta1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{
				ResourceVersion: "5", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
			}})
		}
		return s.changes, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[len(s.requests)-1]
	s.sign(r)
	w := watch.NewFakeWithChanSize(1, false)
	w.Modify(r.DeepCopy())
	return w, nil
}

func certificatePEM(t *testing.T, public any, notAfter time.Time) string {
	t.Helper()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = ca.Public()
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, ca)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestAnchors(t *testing.T) {
	one, two := certificatePEM(t, nil, time.Now()), certificatePEM(t, nil, time.Now())
	bundle := func(name, signer, color, text string) *certificatesv1beta1.ClusterTrustBundle {
		return &certificatesv1beta1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "4", Labels: map[string]string{"color": color}},
			Spec:       certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text},
		}
	}
	s := &served{changes: watch.NewFakeWithChanSize(10, false), bundles: []*certificatesv1beta1.ClusterTrustBundle{
		bundle("plain", "", "", "between\n"+one+"and after\n"+two+one),
		bundle("s:a:red", "s/a", "red", one), bundle("s:a:blue", "s/a", "blue", two), bundle("s:b:red", "s/b", "red", one),
	}}
	changed := make(chan struct{}, 100)
	b := NewBundles(t.Context(), s, func() { changed <- struct{}{} })
	all := &metav1.LabelSelector{}
	red := &metav1.LabelSelector{MatchLabels: map[string]string{"color": "red"}}
	for name, c := range map[string]struct {
		p          corev1.ClusterTrustBundleProjection
		want, fail string
	}{
		"by name":           {corev1.ClusterTrustBundleProjection{Name: ptr.To("plain")}, one + two, ""},
		"of a signer":       {corev1.ClusterTrustBundleProjection{SignerName: ptr.To("s/a"), LabelSelector: all}, one + two, ""},
		"of a label":        {corev1.ClusterTrustBundleProjection{SignerName: ptr.To("s/a"), LabelSelector: red}, one, ""},
		"missing":           {corev1.ClusterTrustBundleProjection{Name: ptr.To("none")}, "", `clustertrustbundles.certificates.k8s.io "none" not found`},
		"optional":          {corev1.ClusterTrustBundleProjection{Name: ptr.To("none"), Optional: ptr.To(true)}, "", ""},
		"without selector":  {corev1.ClusterTrustBundleProjection{SignerName: ptr.To("s/a")}, "", "combination of signerName and labelSelector matched zero ClusterTrustBundles"},
		"optional selector": {corev1.ClusterTrustBundleProjection{SignerName: ptr.To("s/c"), LabelSelector: all, Optional: ptr.To(true)}, "", ""},
	} {
		got, err := b.Anchors(t.Context(), &c.p)
		if c.fail != "" {
			if err == nil || err.Error() != c.fail {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			continue
		}
		// In an order of its own.
		if string(got) != c.want && string(got) != two+one || c.want == "" && len(got) > 0 || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for range s.bundles {
		<-changed
	}
	s.changes.Modify(bundle("plain", "", "", two))
	<-changed
	if got, err := b.Anchors(t.Context(), &corev1.ClusterTrustBundleProjection{Name: ptr.To("plain")}); string(got) != two || err != nil {
		t.Errorf("after a change: %q, %v", got, err)
	}
}

func TestCertificates(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "d", UID: "pod-uid"}}
	now := time.Now()
	clock := testclock.NewFakePassiveClock(now)
	s := &served{}
	condition := func(r *certificatesv1beta1.PodCertificateRequest, kind string) {
		r.Status.Conditions = []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "Because", Message: "so"}}
	}
	issue := func(r *certificatesv1beta1.PodCertificateRequest) {
		csr, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil || csr.CheckSignature() != nil {
			t.Errorf("the proof of the key: %v", err)
			return
		}
		condition(r, certificatesv1beta1.PodCertificateRequestConditionTypeIssued)
		r.Status.CertificateChain = "text\n" + certificatePEM(t, csr.PublicKey, now.Add(2*time.Hour))
		r.Status.BeginRefreshAt, r.Status.NotAfter = ptr.To(metav1.NewTime(now.Add(time.Hour))), ptr.To(metav1.NewTime(now.Add(2*time.Hour)))
	}
	m := NewCertificates(s, "n", clock)
	for _, kind := range []string{"ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072"} {
		s.sign = issue
		p := &corev1.PodCertificateProjection{SignerName: "s/a", KeyType: kind, MaxExpirationSeconds: ptr.To(int32(7200)), UserAnnotations: map[string]string{"a/b": "c"}}
		first, err := m.Get(t.Context(), pod, p)
		if err != nil {
			t.Fatal(kind, err)
		}
		if _, err := tls.X509KeyPair(first.Chain, first.Key); err != nil || !first.Refresh.Equal(now.Add(time.Hour)) {
			t.Errorf("%s: %v, refresh %v", kind, err, first.Refresh)
		}
		n := len(s.requests)
		if again, err := m.Get(t.Context(), pod, p); again != first || err != nil || len(s.requests) != n {
			t.Errorf("%s: asked again: %v", kind, err)
		}
	}
	r := s.requests[0].Spec
	if r.PodName != "p" || r.PodUID != "pod-uid" || r.ServiceAccountName != "default" || r.ServiceAccountUID != "account-uid" ||
		r.NodeName != "n" || r.NodeUID != "node-uid" || *r.MaxExpirationSeconds != 7200 || r.UnverifiedUserAnnotations["a/b"] != "c" || r.SignerName != "s/a" {
		t.Errorf("asked for %+v", r)
	}

	// When it is to be replaced, and the signer will not, the old one serves
	// as long as it is valid, and nobody asks again.
	p := &corev1.PodCertificateProjection{SignerName: "s/a", KeyType: "ECDSAP256"}
	clock.SetTime(now.Add(90 * time.Minute))
	s.sign = func(r *certificatesv1beta1.PodCertificateRequest) {
		condition(r, certificatesv1beta1.PodCertificateRequestConditionTypeDenied)
	}
	if c, err := m.Get(t.Context(), pod, p); err != nil || !c.Refresh.Equal(now.Add(91*time.Minute)) {
		t.Errorf("past its time: %v", err)
	}
	clock.SetTime(now.Add(3 * time.Hour))
	n := len(s.requests)
	if _, err := m.Get(t.Context(), pod, p); err == nil || !strings.Contains(err.Error(), "Denied: Because: so") || len(s.requests) != n {
		t.Errorf("denied: %v, %d requests more", err, len(s.requests)-n)
	}
	// Another pod of that name is another.
	m.Forget(pod.UID)
	s.sign = func(r *certificatesv1beta1.PodCertificateRequest) {
		issue(r)
		r.Status.NotAfter = ptr.To(metav1.NewTime(now.Add(5 * time.Hour)))
	}
	if _, err := m.Get(t.Context(), pod, p); err != nil {
		t.Error(err)
	}
	if _, err := m.Get(t.Context(), pod, &corev1.PodCertificateProjection{KeyType: "DSA"}); err == nil {
		t.Error("a key of an unknown type")
	}
}
