package apiproc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/admission/plugins"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/crd"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/apiserver/peers"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

// settings are what a process is told, in the variable that makes it one.
type settings struct {
	Dir     string   // certificates, and etcd's data
	Address string   // where to listen
	Etcd    []string // an etcd elsewhere
	Compact time.Duration
	// Advertise is where the server says that it is reached; "" says nothing.
	Advertise string
}

const variable = "COX_TEST_APIPROC"

// Main is the process, if this is one: TestMain calls it first, and returns if
// it says true.
func Main() bool {
	text := os.Getenv(variable)
	if text == "" {
		return false
	}
	var s settings
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		go func() { // the test holds the other end, and may die
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = run(ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func backend(ctx context.Context, s settings, log *slog.Logger) (store.Backend, func(), error) {
	if len(s.Etcd) > 0 {
		c, err := etcd.Dial(ctx, etcd.DialConfig{Endpoints: s.Etcd, Log: log})
		if err != nil {
			return nil, nil, err
		}
		return c, func() { _ = c.Close() }, nil
	}
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(s.Dir, "etcd"), Log: log})
	if err != nil {
		return nil, nil, err
	}
	return e, func() { _ = e.Close() }, nil
}

// lateDoor is the server's door for what the server is made with.
type lateDoor struct{ client.Interface }

// run serves until ctx ends, then closes the door as `cox server` does.
func run(ctx context.Context, s settings) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	bundle, err := pki.Ensure(filepath.Join(s.Dir, "pki"), pki.Config{Log: log})
	if err != nil {
		return err
	}
	b, closeBackend, err := backend(ctx, s, log)
	if err != nil {
		return err
	}
	defer closeBackend()
	table, err := builtin.New()
	if err != nil {
		return err
	}
	st, err := store.New(store.Config{Backend: b, Table: table, Log: log, CompactEvery: s.Compact})
	if err != nil {
		return err
	}
	defer st.Close()
	late := &lateDoor{}
	user := client.User{Name: "system:apiserver", Groups: []string{"system:masters", "system:authenticated"}}
	root := client.As(late, user)
	turns := flow.New(flow.Config{Door: root, Log: log})
	defer turns.Close()
	allowed := authz.Union(authz.Masters())
	srv, err := apiserver.New(apiserver.Config{
		Table: table, Store: func(k *api.Kind) store.Interface { return st.Kind(k) },
		Authn: authn.ClientCert(bundle.CA.Pool(), time.Now), Authz: allowed, Flow: turns, Paths: turns.Handlers(),
		Version: version.Info{Major: "1", Minor: "36", GitVersion: "v1.36.0"}, Log: log,
	})
	if err != nil {
		return err
	}
	late.Interface = srv.Door()
	chain, err := plugins.New(plugins.Config{Door: srv.Inside(user), Authz: allowed, Log: log, Now: time.Now})
	if err != nil {
		return err
	}
	srv.SetAdmission(chain)
	srv.Metrics().MustRegister(turns.Collectors()...)
	work, end := context.WithCancel(context.Background())
	defer end()
	go func() { _ = turns.Run(work, nil) }()
	crds := crd.New(crd.Config{Door: root, Server: srv, Forget: st.Forget, Log: log})
	go func() { _ = crds.Run(work) }()
	door := srv.Listen(l, bundle.APIServer.ServerTLS())
	leave, err := join(work, s, b, root, log)
	if err != nil {
		return err
	}
	fmt.Println("ready", l.Addr())
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := leave(closing); err != nil {
		return err
	}
	if err := door.Close(closing); err != nil {
		return err
	}
	return srv.Shutdown(closing)
}

// join makes the server one of several, if it is to say where it is, and
// returns how it says good-bye.
func join(ctx context.Context, s settings, b store.Backend, root client.Interface, log *slog.Logger) (leave func(context.Context) error, err error) {
	if s.Advertise == "" {
		return func(context.Context) error { return nil }, nil
	}
	at, err := netip.ParseAddrPort(s.Advertise)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem} {
		_, err := client.Namespaces.In(root, "").Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	m := peers.New(peers.Config{Backend: b, Door: root, Endpoint: at, Hostname: at.Addr().String(), Log: log})
	if err := m.Join(ctx); err != nil {
		return nil, err
	}
	go func() { _ = m.Run(ctx) }()
	return m.Leave, nil
}
