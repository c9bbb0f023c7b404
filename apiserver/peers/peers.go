// Package peers tells of the API servers that share one etcd: each says there
// that it lives, and all publish those that do as endpoints of the Service
// default/kubernetes and as identity Leases in kube-system. Who lives goes in,
// objects come out. Names and values are upstream's, so that servers of both
// kinds can serve one cluster.
package peers

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// Prefix is where the living servers are in etcd, each under its address with
// a value of kind Endpoints.
const Prefix = "/registry/masterleases/"

// A server that dies is known as gone after the lease's time. Saying that one
// lives is not written to etcd's log, and so costs no disk; but it wakes the
// machine, and where no other server can be, nobody waits to hear of it.
const (
	ttl      = 15 * time.Second
	ttlAlone = 10 * time.Minute
)

func (m *Member) ttl() time.Duration {
	if m.cfg.Alone {
		return ttlAlone
	}
	return ttl
}

// Config is what a Member works with.
type Config struct {
	Backend store.Backend
	// Door is the API with full rights.
	Door client.Interface
	// Endpoint is where clients reach this server.
	Endpoint netip.AddrPort
	// Hostname is the machine's name.
	Hostname string
	// Alone says that no other server can use the Backend, such as when it is
	// embedded. Others that are said to live there do not.
	Alone bool
	Log   *slog.Logger
	// Now is the time; nil is time.Now.
	Now func() time.Time
}

// Member is this server among its peers. Its methods are safe for concurrent
// use.
type Member struct {
	cfg    Config
	key    string
	name   string // of the identity Lease
	holder string

	mu    sync.Mutex
	lease clientv3.LeaseID
	left  bool
}

// Name is the name of a server's identity Lease.
func Name(hostname string, endpoint netip.AddrPort) string {
	hash := sha256.Sum256([]byte(hostname + " " + endpoint.String()))
	return "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hash[:16]))
}

// New returns a member that its peers do not know yet.
func New(cfg Config) *Member {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	name := Name(cfg.Hostname, cfg.Endpoint)
	return &Member{cfg: cfg, key: Prefix + cfg.Endpoint.Addr().String(), name: name, holder: name + "_" + rand.Text()}
}

// Join makes the server known and publishes all of them. The namespaces
// default and kube-system must exist.
func (m *Member) Join(ctx context.Context) error {
	if err := m.live(ctx); err != nil {
		return err
	}
	if err := m.renew(ctx); err != nil {
		return err
	}
	_, err := m.publish(ctx)
	return err
}

// live says in etcd that the server lives, for as long as ttl says.
func (m *Member) live(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return nil
	}
	if m.lease != 0 {
		if _, err := m.cfg.Backend.KeepAliveOnce(ctx, m.lease); err == nil {
			return nil
		}
		m.lease = 0 // it has ended, or is not known: begin anew
	}
	value, err := encode(m.cfg.Endpoint)
	if err != nil {
		return err
	}
	if m.cfg.Alone {
		if _, err := m.cfg.Backend.Delete(ctx, Prefix, clientv3.WithPrefix()); err != nil {
			return fmt.Errorf("forget the API servers that were: %w", err)
		}
	}
	g, err := m.cfg.Backend.Grant(ctx, int64(m.ttl()/time.Second))
	if err != nil {
		return fmt.Errorf("tell the other API servers of this one: %w", err)
	}
	if _, err := m.cfg.Backend.Put(ctx, m.key, string(value), clientv3.WithLease(g.ID)); err != nil {
		return fmt.Errorf("tell the other API servers of this one: %w", err)
	}
	m.lease = g.ID
	return nil
}

// Leave tells the peers that this server ends, and publishes those that stay.
// The last one stays published.
func (m *Member) Leave(ctx context.Context) error {
	m.mu.Lock()
	lease := m.lease
	m.left, m.lease = true, 0
	m.mu.Unlock()
	if lease == 0 {
		return nil
	}
	if _, err := m.cfg.Backend.Revoke(ctx, lease); err != nil {
		return fmt.Errorf("tell the other API servers that this one ends: %w", err)
	}
	_, err := m.publish(ctx)
	return err
}

// Run keeps the server known, publishes whoever comes and goes, and what was
// published if somebody else changes it, until ctx ends.
func (m *Member) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, follow := range m.follows() {
		wg.Go(func() { again(ctx, func() error { return follow(ctx, changed) }) })
	}
	wg.Go(func() { m.keepIdentity(ctx) })
	beat := time.NewTicker(m.ttl() / 3)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			err = m.live(ctx)
		case <-changed:
			err = m.publishUnlessLeft(ctx)
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("the API servers are not published", "error", err)
		}
	}
}

// publishUnlessLeft leaves it to the peers once this server has said good-bye.
func (m *Member) publishUnlessLeft(ctx context.Context) error {
	m.mu.Lock()
	left := m.left
	m.mu.Unlock()
	if left {
		return nil
	}
	_, err := m.publish(ctx)
	return err
}

// Living returns where the living servers are reached, in order, and the
// revision of etcd at which that is so.
func (m *Member) Living(ctx context.Context) ([]netip.AddrPort, int64, error) {
	got, err := m.cfg.Backend.Get(ctx, Prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("list the API servers: %w", err)
	}
	var out []netip.AddrPort
	for _, kv := range got.Kvs {
		at, err := decode(kv.Value, m.cfg.Endpoint.Port())
		if err != nil {
			m.cfg.Log.Warn("an API server's address cannot be read", "key", string(kv.Key), "error", err)
			continue
		}
		out = append(out, at)
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
	})
	return out, got.Header.Revision, nil
}

// magic is what every stored protobuf object begins with.
var magic = []byte("k8s\x00")

// encode is the value that says where a server is reached. Upstream reads the
// address; the port is ours.
func encode(at netip.AddrPort) ([]byte, error) {
	e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: at.Addr().String()}},
		Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(at.Port()), Protocol: corev1.ProtocolTCP}},
	}}}
	raw, err := e.Marshal()
	if err != nil {
		return nil, err
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}, Raw: raw}
	b, err := u.Marshal()
	return append(slices.Clone(magic), b...), err
}

// decode reads such a value. One without a port means the common one.
func decode(value []byte, port uint16) (netip.AddrPort, error) {
	body, ok := bytes.CutPrefix(value, magic)
	if !ok {
		return netip.AddrPort{}, errors.New("no protobuf object")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(body); err != nil {
		return netip.AddrPort{}, err
	}
	var e corev1.Endpoints
	if err := e.Unmarshal(u.Raw); err != nil {
		return netip.AddrPort{}, err
	}
	if len(e.Subsets) == 0 || len(e.Subsets[0].Addresses) == 0 {
		return netip.AddrPort{}, errors.New("no address")
	}
	if p := e.Subsets[0].Ports; len(p) > 0 && p[0].Port > 0 && p[0].Port < 1<<16 {
		port = uint16(p[0].Port)
	}
	ip, err := netip.ParseAddr(e.Subsets[0].Addresses[0].IP)
	return netip.AddrPortFrom(ip, port), err
}

// follows are the ways in which this server learns that it should publish.
func (m *Member) follows() []func(context.Context, chan<- struct{}) error {
	return []func(context.Context, chan<- struct{}) error{
		m.followPeers,
		func(ctx context.Context, changed chan<- struct{}) error {
			return followNamed(ctx, client.Endpoints.In(m.cfg.Door, metav1.NamespaceDefault), changed)
		},
		func(ctx context.Context, changed chan<- struct{}) error {
			return followNamed(ctx, client.EndpointSlices.In(m.cfg.Door, metav1.NamespaceDefault), changed)
		},
	}
}

// followPeers tells of servers that come and go until its watch ends.
func (m *Member) followPeers(ctx context.Context, changed chan<- struct{}) error {
	living, revision, err := m.Living(ctx)
	if err != nil {
		return err
	}
	tell(changed) // what happened between two watches
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range m.cfg.Backend.Watch(clientv3.WithRequireLeader(ctx), Prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		// Upstream's servers write again and again that they live.
		now, _, err := m.Living(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(now, living) {
			living = now
			tell(changed)
		}
	}
	return errors.New("the watch of the API servers ended")
}

func tell(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// again runs f until ctx ends, with a pause after each failure.
func again(ctx context.Context, f func() error) {
	for ctx.Err() == nil {
		if err := f(); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}
