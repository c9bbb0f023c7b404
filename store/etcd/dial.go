package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// Dial connects to an external cluster and waits until one of its members
// answers or ctx ends.
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
		DialTimeout:          20 * time.Second,
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
		tls, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("etcd client certificate: %w", err)
		}
		c.TLS = tls
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
	if _, err := revision(ctx, cl); err != nil {
		cl.Close()
		return nil, fmt.Errorf("no etcd member at %s answers: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return &Client{cl}, nil
}

// Revision returns a revision at least as great as that of every write
// acknowledged before the call.
func (c *Client) Revision(ctx context.Context) (int64, error) { return revision(ctx, c.Client) }
