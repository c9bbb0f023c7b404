package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/pki"
)

// accountsDoor makes accounts and tokens that last for an hour.
type accountsDoor struct {
	accounts map[string]bool
	asked    int
}

func (d *accountsDoor) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	switch {
	case req.Subresource == "token" && !d.accounts[req.Name]:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, req.Name)
	case req.Subresource == "token":
		d.asked++
		return &client.Result{Object: &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
			Token: req.Name + string(rune('0'+d.asked)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour)),
		}}}, nil
	}
	account := req.Object.(*corev1.ServiceAccount)
	d.accounts[account.Name] = true
	return &client.Result{Object: runtime.Object(account)}, nil
}

func (*accountsDoor) Watch(context.Context, *client.Request) (watch.Interface, error) {
	panic("nothing is watched")
}

func TestAccountToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := &accountsDoor{accounts: map[string]bool{}}
		b := &accountBearer{door: door, account: "job-controller"}
		current := func(want string) {
			t.Helper()
			if got, err := b.current(t.Context()); err != nil || got != want {
				t.Errorf("token %q, %v; want %q", got, err, want)
			}
		}
		current("job-controller1") // its account is made first
		time.Sleep(47 * time.Minute)
		current("job-controller1")
		time.Sleep(2 * time.Minute)
		current("job-controller2")
		b.forget("job-controller1") // an old one's refusal tells nothing of the new one
		current("job-controller2")
		b.forget("job-controller2")
		current("job-controller3")
	})
}

func TestAccountDoor(t *testing.T) {
	refuse := true
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		if refuse {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`))
			refuse = false
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"n"}}`))
	}))
	defer server.Close()
	doors := &accountDoors{conf: &rest.Config{Host: server.URL, BearerToken: "the manager's own"}, door: &accountsDoor{accounts: map[string]bool{"a": true}}}
	door := doors.get("a")
	if _, err := client.Namespaces.In(door, "").Get(t.Context(), "n"); !apierrors.IsUnauthorized(err) {
		t.Errorf("refused: %v", err)
	}
	if n, err := client.Namespaces.In(door, "").Get(t.Context(), "n"); err != nil || n.Name != "n" {
		t.Errorf("with a new token: %v", err)
	}
	if len(seen) != 2 || seen[0] != "Bearer a1" || seen[1] != "Bearer a2" {
		t.Errorf("shown were %q", seen)
	}
}

func TestSettledChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		poke := settledChanges(ctx, changed)
		var told []time.Duration
		begin := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-changed:
					told = append(told, time.Since(begin))
				case <-ctx.Done():
					return
				}
			}
		}()
		poke()
		time.Sleep(500 * time.Millisecond)
		poke()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if len(told) != 2 || told[0] != 1500*time.Millisecond || told[1] != 11500*time.Millisecond {
			t.Errorf("told after %v", told)
		}
	})
}

// The flags with which kubeadm starts upstream's controller manager are taken.
func TestKubeadmFlags(t *testing.T) {
	fs := managerCommand().Flags()
	err := fs.Parse([]string{
		"--allocate-node-cidrs=true", "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
		"--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf", "--bind-address=127.0.0.1",
		"--client-ca-file=/etc/kubernetes/pki/ca.crt", "--cluster-cidr=10.244.0.0/16", "--cluster-name=kubernetes",
		"--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt", "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
		"--controllers=*,bootstrapsigner,tokencleaner", "--kubeconfig=/etc/kubernetes/controller-manager.conf", "--leader-elect=true",
		"--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt", "--root-ca-file=/etc/kubernetes/pki/ca.crt",
		"--service-account-private-key-file=/etc/kubernetes/pki/sa.key", "--service-cluster-ip-range=10.96.0.0/12", "--use-service-account-credentials=true",
	})
	if err != nil {
		t.Error(err)
	}
}

// Each signer has its own authority, or the common one.
func TestSigners(t *testing.T) {
	dir := t.TempDir()
	b, err := pki.Ensure(filepath.Join(dir, "common"), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Ensure(filepath.Join(dir, "own"), pki.Config{}); err != nil {
		t.Fatal(err)
	}
	file := func(of, name string) string { return filepath.Join(dir, of, name) }
	r := &managerRole{signingCert: file("common", "ca.crt"), signKey: file("common", "ca.key"), signingDuration: time.Hour}
	r.signers[2] = signerFiles{file("own", "ca.crt"), file("own", "ca.key")}
	var m manager.Config
	if err := r.authorities(&m); err != nil {
		t.Fatal(err)
	}
	common := string(b.CA.PEM())
	if string(m.Signing.ClientCA.PEM()) != common || string(m.Signing.KubeletCA.PEM()) != common || string(m.Signing.LegacyCA.PEM()) != common || string(m.Signing.ServingCA.PEM()) == common || m.Signing.Duration != time.Hour {
		t.Errorf("%+v", m.Signing)
	}
	r.signers[2].key = file("own", "absent")
	if err := r.authorities(&m); err == nil || !strings.Contains(err.Error(), "--cluster-signing-kubelet-serving-cert-file") {
		t.Error(err)
	}
	m = manager.Config{}
	if err := (&managerRole{}).authorities(&m); err != nil || m.Signing.ClientCA != nil {
		t.Error("a signer without an authority signs: ", err)
	}
}
