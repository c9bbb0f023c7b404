package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/store"
)

// startSteps are what makeServer and bootstrap finish, under the names that
// upstream gives to the same: health is held back until each is done.
type startSteps struct {
	objects, roles, repair func()
}

// healthChecks tells the server's health of all that it needs.
func (cp *controlPlane) healthChecks() {
	s := cp.server
	s.AddCheck("log", func(context.Context) error { return canLog(unix.Stderr) })
	etcd := &etcdCheck{backend: cp.backend, now: time.Now}
	if cp.etcd != nil {
		etcd.failed = cp.etcd.Err
	}
	s.AddCheck("etcd", etcd.check)
	s.AddReadyCheck("etcd-readiness", etcd.check)
	s.AddReadyCheck("informer-sync", cp.rolesRead)
	s.AddCheck("poststarthook/generic-apiserver-start-informers", cp.rolesRead)
	s.AddCheck("poststarthook/storage-readiness", untilGood(cp.cachesRead))
	if cp.crypt != nil {
		for _, c := range cp.crypt.Checks() {
			s.AddCheck(c.Name, c.Check)
		}
	}
	s.PostStarted(cp.crds.Synced(), "start-apiextensions-informers", "start-apiextensions-controllers", "crd-informer-synced",
		"apiservice-openapi-controller", "apiservice-openapiv3-controller") // the documents show the custom kinds
	cp.steps = startSteps{
		objects: s.PostStart("start-system-namespaces-controller", "scheduling/bootstrap-system-priority-classes", "bootstrap-controller",
			"start-cluster-authentication-info-controller", "start-kube-apiserver-identity-lease-controller", "start-legacy-token-tracking-controller"),
		roles:  s.PostStart("rbac/bootstrap-roles"),
		repair: s.PostStart("start-service-ip-repair-controllers"),
	}
}

// rolesRead says whether RBAC has read what it decides by.
func (cp *controlPlane) rolesRead(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // asks for what is, not to wait
	return cp.rbac.Synced(ctx)
}

// cachesRead says whether all kinds are read from their caches.
func (cp *controlPlane) cachesRead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	for _, k := range cp.table.Kinds {
		if k.Prefix == "" {
			continue
		}
		if err := cp.store.Kind(k).Ready(ctx); err != nil {
			return fmt.Errorf("%s are not read yet: %w", k.GR(), err)
		}
	}
	return nil
}

// untilGood asks a check no more once it was good.
func untilGood(check apiserver.Check) apiserver.Check {
	var good atomic.Bool
	return func(ctx context.Context) error {
		if good.Load() {
			return nil
		}
		err := check(ctx)
		good.Store(err == nil)
		return err
	}
}

// canLog says why a line written to a file would be lost, or not be taken.
func canLog(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		switch _, err := unix.Poll(p, 0); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
			return errors.New("nobody reads the log")
		case p[0].Revents&unix.POLLOUT == 0:
			return errors.New("the log does not take more lines")
		}
		return nil
	}
}

// etcdCheck asks etcd whether it answers: at most once a second, since anybody
// may ask for health, and for two seconds at most.
type etcdCheck struct {
	backend store.Backend
	failed  func() error // of an embedded etcd; nil without
	now     func() time.Time

	mu   sync.Mutex
	at   time.Time
	last error
}

func (e *etcdCheck) check(ctx context.Context) error {
	if e.failed != nil {
		if err := e.failed(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.now(); !e.at.IsZero() && now.Sub(e.at) < time.Second {
		return e.last
	}
	// What the one asker makes of it is for the others as well.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, e.last = e.backend.Get(ctx, "/registry/health", clientv3.WithKeysOnly())
	e.at = e.now()
	return e.last
}
