package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// DialConfig names an external cluster.
type DialConfig struct {
	// Endpoints are URLs such as https://10.0.0.1:2379.
	Endpoints []string
	// CertFile, KeyFile and CAFile are PEM files for mutual TLS; all empty
	// only for http endpoints. They are read again for every connection, so
	// rotated files need no restart.
	CertFile, KeyFile, CAFile string
	// Log gets the client's warnings; slog.Default() when nil.
	Log *slog.Logger
}

// Client is a connection to an external cluster.
type Client struct{ *clientv3.Client }

// dialTimeout is how long a start waits for the cluster.
const dialTimeout = 20 * time.Second

// Dial connects to an external cluster and returns once one of its members
// has answered; it waits for that until ctx ends, 20 s at most.
func Dial(ctx context.Context, cfg DialConfig) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoints given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	lg := newZap(cfg.Log, newFailure(""))
	c := clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize:   4 << 20,
		Logger:               lg,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// A cluster that was away is found again within seconds.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		})},
	}
	if cfg.CertFile != "" || cfg.KeyFile != "" || cfg.CAFile != "" {
		info := transport.TLSInfo{CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.CAFile, Logger: lg}
		var err error
		if c.TLS, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("etcd client certificate: %w", err)
		}
	} else {
		for _, e := range cfg.Endpoints {
			if strings.HasPrefix(e, "https:") {
				return nil, fmt.Errorf("etcd endpoint %s needs a client certificate, its key and the CA's certificate", e)
			}
		}
	}
	cl, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := revision(ctx, cl); err != nil {
		cl.Close()
		return nil, fmt.Errorf("no etcd member at %s answers: %w", strings.Join(cfg.Endpoints, ", "), errors.Join(err, probe(cfg.Endpoints[0], c.TLS)))
	}
	return &Client{cl}, nil
}

// probe says what a bare connection meets, which the client keeps to itself.
func probe(endpoint string, cfg *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, time.Second)
	if err != nil || cfg == nil {
		return err
	}
	defer conn.Close()
	cfg = cfg.Clone()
	cfg.ServerName = u.Hostname()
	c := tls.Client(conn, cfg)
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if err := c.Handshake(); err != nil {
		return err
	}
	// A server that refuses our certificate says so only now.
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// Revision returns a revision at least as great as that of every write
// acknowledged before the call.
func (c *Client) Revision(ctx context.Context) (int64, error) { return revision(ctx, c.Client) }

// Size is that of the database file of the first member, in bytes.
func (c *Client) Size(ctx context.Context) (int64, error) {
	st, err := c.Status(ctx, c.Endpoints()[0])
	if err != nil {
		return 0, err
	}
	return st.DbSize, nil
}
