package controllers_test

import (
	"context"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/client"
)

// An address that somebody deletes is reserved again for the Service that has
// it; what a Service leaves that goes without its server's doing is freed.
func TestAddressesAgreeWithServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	services, addresses := client.Services.In(w.root, "default"), client.IPAddresses.In(w.root, "")
	create := func(name, ip string, port int32) error {
		svc := &corev1.Service{}
		svc.Namespace, svc.Name, svc.Spec.ClusterIP, svc.Spec.Type = "default", name, ip, corev1.ServiceTypeNodePort
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: port}}
		_, err := services.Create(ctx, svc)
		return err
	}
	w.must(create("stays", "10.43.7.7", 30700))
	w.must(create("lost", "10.43.7.8", 30701))
	// As after a server that ended between two writes.
	_, err := w.etcd.Txn(ctx).Then(clientv3.OpDelete("/registry/services/specs/default/lost")).Commit()
	w.must(err)
	object(w, client.Services, "default", "lost", "gone", func(s *corev1.Service) bool { return s == nil })
	if err := create("other", "10.43.7.9", 30701); err == nil {
		t.Fatal("a port that was not freed is given away")
	}
	w.must(w.services.Repair(ctx, w.root))
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keep, stop := context.WithCancel(ctx)
	defer stop()
	keeping.Go(func() { _ = w.services.Keep(keep, w.root, time.Second) })
	object(w, client.IPAddresses, "", "10.43.7.8", "freed", func(a *networkingv1.IPAddress) bool { return a == nil })
	had, err := addresses.Get(ctx, "10.43.7.7")
	w.must(err)
	w.must(addresses.Delete(ctx, "10.43.7.7", client.Options{}))
	object(w, client.IPAddresses, "", "10.43.7.7", "back", func(a *networkingv1.IPAddress) bool {
		return a != nil && a.UID != had.UID && a.Spec.ParentRef.Name == "stays"
	})
	// That a port is free shows only to who takes it.
	for create("other", "10.43.7.9", 30701) != nil {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the port is not freed")
		}
	}
	w.must(create("again", "10.43.7.8", 30702))
}
