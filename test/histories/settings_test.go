package histories_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/endpointslice"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/mirroring"
	"github.com/coxswain/cox/controllers/podrequests"
	"github.com/coxswain/cox/test/world"
)

// endpoint makes a pod of the app that runs and is ready.
func endpoint(w *world.World, n int) {
	w.T.Helper()
	pods := client.Pods.In(w.Root, world.Namespace)
	p, err := pods.Create(w.T.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", n), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	w.Must(err)
	p = p.DeepCopy()
	p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprint("10.0.0.", n)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_, err = pods.UpdateStatus(w.T.Context(), p)
	w.Must(err)
}

// TestEndpointsAreGathered has a pod become ready every second, six in all:
// who gathers for ten seconds writes them all at once, in slices of the size
// that was asked for.
func TestEndpointsAreGathered(t *testing.T) {
	for name, c := range map[string]struct {
		batch  time.Duration
		writes int // of Endpoints, beside the first, which are empty
	}{"gathered": {10 * time.Second, 1}, "at once": {0, 6}} {
		t.Run(name, func(t *testing.T) {
			world.Histories(t, 1, func(w *world.World) {
				_, err := client.Services.In(w.Root, world.Namespace).Create(w.T.Context(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Name: "web"},
					Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}},
				})
				w.Must(err)
				defer w.RunAs(manager.Config{
					Controllers:    []string{"endpoints-controller", "endpointslice-controller"},
					EndpointsBatch: c.batch, Slices: endpointslice.Settings{Batch: c.batch, Most: 4},
				})(false)
				w.Settle()
				writes, sliceWrites := 0, 0
				w.Judge(func(ch world.Change) {
					switch ch.Object().(type) {
					case *corev1.Endpoints:
						writes++
					case *discoveryv1.EndpointSlice:
						sliceWrites++
					}
				})
				for n := range 6 {
					endpoint(w, n+1)
					time.Sleep(time.Second)
				}
				w.Settle()
				if writes != c.writes {
					t.Errorf("Endpoints were written %d times, not %d", writes, c.writes)
				}
				// Gathered, the slice that was there is filled and another made.
				if want := map[int]int{1: 2, 6: 6}[c.writes]; sliceWrites != want {
					t.Errorf("slices were written %d times, not %d", sliceWrites, want)
				}
				all := 0
				for _, s := range world.Objects[*discoveryv1.EndpointSlice](w, "endpointslices") {
					all += len(s.Endpoints)
					if len(s.Endpoints) > 4 {
						t.Errorf("a slice of %d", len(s.Endpoints))
					}
				}
				if all != 6 {
					t.Errorf("%d endpoints", all)
				}
			})
		})
	}
}

// TestMirrorsAreGathered changes Endpoints five times within five seconds.
func TestMirrorsAreGathered(t *testing.T) {
	world.Histories(t, 1, func(w *world.World) {
		ctx := w.T.Context()
		_, err := client.Services.In(w.Root, world.Namespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}}})
		w.Must(err)
		defer w.RunAs(manager.Config{
			Controllers: []string{"endpointslice-mirroring-controller"},
			Mirror:      mirroring.Settings{Batch: 10 * time.Second, Most: 3},
		})(false)
		w.Settle()
		writes := 0
		w.Judge(func(ch world.Change) {
			if _, ok := ch.Object().(*discoveryv1.EndpointSlice); ok {
				writes++
			}
		})
		res := client.Endpoints.In(w.Root, world.Namespace)
		e, err := res.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Subsets: []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Port: 80}}, Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}}}})
		w.Must(err)
		for n := range 4 {
			time.Sleep(time.Second)
			e = e.DeepCopy()
			e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: fmt.Sprint("192.0.2.", n+2)})
			e, err = res.Update(ctx, e)
			w.Must(err)
		}
		w.Settle()
		slices := world.Objects[*discoveryv1.EndpointSlice](w, "endpointslices")
		if writes != 1 || len(slices) != 1 || len(slices[0].Endpoints) != 3 {
			t.Errorf("%d writes of %v", writes, slices)
		}
	})
}

// TestPodRequestsAreCleanedAway: each stays for its time, however it ended and
// whether or not the controller lived all the while.
func TestPodRequestsAreCleanedAway(t *testing.T) {
	world.Histories(t, 3, func(w *world.World) {
		const name = "podcertificaterequest-cleaner-controller"
		w.SetFaults(world.Rough())
		begun := map[string]time.Time{}
		gone := 0
		w.Judge(func(ch world.Change) {
			r, ok := ch.Object().(*certificatesv1beta1.PodCertificateRequest)
			switch {
			case !ok:
			case ch.Old == nil:
				begun[r.Name] = ch.At
			case ch.New == nil:
				gone++
				if age := ch.At.Sub(begun[r.Name]); age < podrequests.Lifetime || age > podrequests.Lifetime+2*time.Minute {
					w.Failf("%s goes after %v", r.Name, age)
				}
			}
		})
		end := w.Run(name)
		for n := range 5 {
			_, err := client.PodCertificateRequests.In(w.Root, world.Namespace).Create(w.T.Context(), podRequest(fmt.Sprint("r", n)))
			w.Must(err)
			time.Sleep(time.Minute)
			if n == 2 { // nothing is due: what it knows it must learn again
				end(true)
				end = w.Run(name)
			}
		}
		time.Sleep(podrequests.Lifetime)
		w.SetFaults(world.Faults{})
		w.Settle()
		end(false)
		if gone != 5 {
			t.Errorf("%d of 5 went", gone)
		}
	})
}

// podRequest is what a kubelet would make for a pod.
func podRequest(name string) *certificatesv1beta1.PodCertificateRequest {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	raw, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err) // a kind of key that it knows
	}
	return &certificatesv1beta1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name},
		Spec: certificatesv1beta1.PodCertificateRequestSpec{
			SignerName: "example.com/pods", PodName: "p", PodUID: "p-uid", ServiceAccountName: "default", ServiceAccountUID: "s-uid",
			NodeName: "n", NodeUID: "n-uid", PKIXPublicKey: raw, ProofOfPossession: ed25519.Sign(key, []byte("p-uid")),
		},
	}
}
