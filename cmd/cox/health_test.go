package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/store"
)

func TestCanLog(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	fd := int(write.Fd())
	if err := canLog(fd); err != nil {
		t.Errorf("an empty pipe: %v", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for line := make([]byte, 4096); ; {
		if _, err := unix.Write(fd, line); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := canLog(fd); err == nil || !strings.Contains(err.Error(), "does not take") {
		t.Errorf("a full pipe: %v", err)
	}
	read.Close()
	if err := canLog(fd); err == nil || !strings.Contains(err.Error(), "nobody reads") {
		t.Errorf("a pipe without a reader: %v", err)
	}
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := canLog(int(file.Fd())); err != nil {
		t.Errorf("a file: %v", err)
	}
}

// answers is an etcd that answers in one way.
type answers struct {
	store.Backend
	asked int
	err   error
}

func (a *answers) Get(ctx context.Context, _ string, _ ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	a.asked++
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("asked for ever")
	}
	return nil, a.err
}

func TestEtcdCheck(t *testing.T) {
	now := time.Unix(100, 0)
	var dead error
	etcd := &answers{}
	c := &etcdCheck{backend: etcd, failed: func() error { return dead }, now: func() time.Time { return now }}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // one who gives up does not speak for the others
		if err := c.check(gone); err != nil || etcd.asked != 1 {
			t.Fatal(err, etcd.asked)
		}
	}
	etcd.err = errors.New("no leader")
	now = now.Add(time.Second)
	for range 3 {
		if err := c.check(t.Context()); err != etcd.err || etcd.asked != 2 {
			t.Fatal(err, etcd.asked)
		}
	}
	dead = errors.New("the disk is full")
	if err := c.check(t.Context()); err != dead || etcd.asked != 2 {
		t.Fatal(err, etcd.asked)
	}
}
