package kubelet_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/kubelet"
)

// asked is a door that remembers what was asked of it but for watches.
type asked struct {
	client.Interface
	mu   sync.Mutex
	list []string // "get nodes"
}

func (a *asked) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	a.mu.Lock()
	a.list = append(a.list, string(req.Verb)+" "+req.Resource.Resource)
	a.mu.Unlock()
	return a.Interface.Do(ctx, req)
}

// of returns what was asked since the last forget.
func (a *asked) of() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

func (a *asked) forget() {
	a.mu.Lock()
	a.list = nil
	a.mu.Unlock()
}

// renewals counts the lease's.
func renewals(list []string) (n int) {
	for _, s := range list {
		if s == "update leases" {
			n++
		}
	}
	return n
}

// TestOwnNode: a node at rest renews its lease and asks for nothing else; what
// others do to its Node it notices all the same.
func TestOwnNode(t *testing.T) {
	w := newWorld(t)
	w.stop()
	door := &asked{}
	w.change = func(c *kubelet.Config) {
		door.Interface, c.Client, c.LeaseSeconds = c.Client, door, 4
	}
	w.startKubelet()
	rests := func() {
		t.Helper()
		w.eventually("the kubelet comes to rest", func() bool {
			list := door.of()
			switch {
			case slices.ContainsFunc(list, func(s string) bool { return s != "update leases" }):
				door.forget()
				return false
			}
			return renewals(list) >= 3
		})
	}
	rests()

	nodes := client.Nodes.In(w.root, "")
	node, err := nodes.Get(t.Context(), nodeName)
	w.must(err)
	node = node.DeepCopy()
	node.Labels["kubernetes.io/hostname"] = "another"
	_, err = nodes.Update(t.Context(), node)
	w.must(err)
	w.eventually("its label is put right", func() bool {
		n, err := nodes.Get(t.Context(), nodeName)
		w.must(err)
		return n.Labels["kubernetes.io/hostname"] == nodeName
	})
	rests()

	w.must(nodes.Delete(t.Context(), nodeName, client.Options{}))
	w.eventually("the node is there again", func() bool {
		n, err := nodes.Get(t.Context(), nodeName)
		if !apierrors.IsNotFound(err) {
			w.must(err)
		}
		return err == nil && n.UID != node.UID && n.Status.NodeInfo.ContainerRuntimeVersion != ""
	})
	rests()
	w.empty()
}
