package scaling_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/apiproc"
)

// addresses are what Endpoints and EndpointSlice say, which must be the same.
func addresses(t *testing.T, d client.Interface) string {
	t.Helper()
	e, err := client.Endpoints.In(d, ns).Get(t.Context(), "kubernetes")
	if err != nil {
		return err.Error()
	}
	s, err := client.EndpointSlices.In(d, ns).Get(t.Context(), "kubernetes")
	if err != nil {
		return err.Error()
	}
	var a, b []string
	for _, sub := range e.Subsets {
		for _, at := range sub.Addresses {
			a = append(a, fmt.Sprintf("%s:%d", at.IP, sub.Ports[0].Port))
		}
	}
	for _, at := range s.Endpoints {
		b = append(b, fmt.Sprintf("%s:%d", at.Addresses[0], *s.Ports[0].Port))
	}
	if !slices.Equal(a, b) {
		return fmt.Sprintf("Endpoints %v and slice %v", a, b)
	}
	return strings.Join(a, " ")
}

// published waits until the endpoints are those wanted.
func published(t *testing.T, d client.Interface, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	w, err := client.EndpointSlices.In(d, ns).Watch(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	again := time.NewTicker(100 * time.Millisecond) // Endpoints and slice are two writes
	defer again.Stop()
	for addresses(t, d) != want {
		select {
		case <-ctx.Done():
			t.Fatalf("the kubernetes Service has the endpoints %s, want %s", addresses(t, d), want)
		case <-w.ResultChan():
		case <-again.C:
		}
	}
}

// Each of two servers is among the Service's endpoints for as long as it
// lives: one that is killed goes when it is missed, one that stops goes first,
// and the last one stays.
func TestEndpointsFollowTheServers(t *testing.T) {
	url, dir := apiproc.Etcd(t), t.TempDir()
	var procs [2]*apiproc.Proc
	var doors [2]client.Interface
	for i := range procs {
		procs[i] = apiproc.New(t, dir, url)
		procs[i].Advertise(fmt.Sprintf("10.9.8.%d:6443", i+1))
		procs[i].Start()
		d, err := client.Remote(procs[i].Config())
		if err != nil {
			t.Fatal(err)
		}
		doors[i] = d
	}
	const both, second = "10.9.8.1:6443 10.9.8.2:6443", "10.9.8.2:6443"
	published(t, doors[0], both)
	published(t, doors[1], both)
	identities := client.Leases.In(doors[1], metav1.NamespaceSystem)
	leases, _, err := identities.List(t.Context(), client.Options{})
	if err != nil || len(leases) != 2 || leases[0].Labels["apiserver.kubernetes.io/identity"] != "kube-apiserver" ||
		!strings.HasPrefix(*leases[0].Spec.HolderIdentity, leases[0].Name+"_") || *leases[0].Spec.LeaseDurationSeconds != 3600 {
		t.Errorf("identity Leases: %+v %v", leases, err)
	}

	procs[0].Kill()
	published(t, doors[1], second)
	procs[0].Start()
	published(t, doors[1], both)
	if again, _, err := identities.List(t.Context(), client.Options{}); err != nil || len(again) != 2 {
		t.Errorf("%d identity Leases after a restart: %v", len(again), err)
	}
	// What somebody else makes of it does not last.
	if err := client.Endpoints.In(doors[1], ns).Delete(t.Context(), "kubernetes", client.Options{}); err != nil {
		t.Fatal(err)
	}
	published(t, doors[1], both)
	if _, err := client.EndpointSlices.In(doors[1], ns).Mutate(t.Context(), "kubernetes", "", func(s *discoveryv1.EndpointSlice) (bool, error) {
		s.Endpoints = nil
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	published(t, doors[1], both)

	if err := procs[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if got := addresses(t, doors[1]); got != second {
		t.Errorf("endpoints right after a server's stop: %s", got)
	}
	if err := procs[1].Stop(); err != nil {
		t.Fatal(err)
	}
	procs[1].Start()
	published(t, doors[1], second)
}

// Leases of servers that are long gone are deleted by those that come.
func TestStaleIdentities(t *testing.T) {
	url, dir := apiproc.Etcd(t), t.TempDir()
	p := apiproc.New(t, dir, url)
	p.Start()
	d, err := client.Remote(p.Config())
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Namespaces.In(d, "").Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}})
	if err != nil {
		t.Fatal(err)
	}
	leases := client.Leases.In(d, metav1.NamespaceSystem)
	for name, age := range map[string]time.Duration{"old": 2 * time.Hour, "young": time.Minute, "other": 2 * time.Hour} {
		l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"apiserver.kubernetes.io/identity": "kube-apiserver"}}}
		l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = ptr.To(metav1.NewMicroTime(time.Now().Add(-age))), ptr.To[int32](3600)
		if name == "other" {
			l.Labels = nil
		}
		if _, err := leases.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	w, err := leases.Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	q := apiproc.New(t, dir, url)
	q.Advertise("10.9.8.1:6443")
	q.Start()
	for ev := range w.ResultChan() {
		if l, ok := ev.Object.(*coordinationv1.Lease); ok && ev.Type == "DELETED" && l.Name == "old" {
			break
		}
	}
	left, _, err := leases.List(t.Context(), client.Options{})
	if err != nil || len(left) != 3 {
		t.Errorf("%d Leases are left, want young, other and the server's own: %v", len(left), err)
	}
}
