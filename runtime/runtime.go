// Package runtime is the way to containers: a configuration goes in, a CRI
// connection comes out, either to the containerd that cox carries and runs as
// a process of its own, or to any other CRI runtime.
package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/runtime/archive"
	"github.com/coxswain/cox/runtime/images"
)

// maxMessage bounds a CRI message, as CRI clients and servers agree.
const maxMessage = 16 << 20

// Runtime is a connection to a CRI runtime, which it may also supervise. It
// is safe for concurrent use.
type Runtime struct {
	conn       *grpc.ClientConn
	endpoint   string
	operations *Operations

	// The rest is of the embedded containerd only.
	cfg     Config
	helpers helpers
	cancel  context.CancelFunc
	done    chan struct{}
}

// answerTime is how long a runtime may take to answer a question.
const answerTime = 20 * time.Second

// Dial connects to a CRI runtime that someone else runs. The endpoint is
// unix:///path or a path. Nothing is sent before the first call.
func Dial(endpoint string) (*Runtime, error) { return DialWithin(endpoint, answerTime) }

// window is how many bytes may be under way: on one machine a matter of memory.
const window = 1 << 20

// DialWithin is Dial with a bound on the time that an answer to a question
// may take: a runtime that hangs fails then. Calls that do something have none.
func DialWithin(endpoint string, answer time.Duration) (*Runtime, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "unix://" + endpoint
	}
	operations := newOperations()
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithIdleTimeout(0),
		// With windows of a fixed size gRPC does not measure the connection by a
		// ping with every message: half of an idle node's wake-ups at either end.
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, bounded := ctx.Deadline(); !bounded && isQuestion(method) {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, answer)
				defer cancel()
			}
			begin := time.Now()
			err := call(ctx, method, req, reply, cc, opts...)
			if err == nil {
				err = lacking(reply)
			}
			operations.count(method, time.Since(begin), err)
			return err
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime %s: %w", endpoint, err)
	}
	return &Runtime{conn: conn, endpoint: endpoint, operations: operations}, nil
}

// isQuestion says that a CRI method changes nothing.
func isQuestion(method string) bool {
	if !strings.HasPrefix(method, "/runtime.v1.") {
		return false
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	return strings.HasPrefix(name, "List") || strings.HasSuffix(name, "Status") || strings.HasSuffix(name, "Stats") ||
		name == "Version" || name == "ImageFsInfo" || name == "RuntimeConfig"
}

// Start runs containerd, or adopts the one that runs already with the same
// configuration, and returns when it answers. It is supervised until ctx ends
// or Close is called, and goes on running after that. The sandbox image is
// imported when absent.
func Start(ctx context.Context, cfg Config) (*Runtime, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the container runtime needs root")
	}
	if cfg.OCIRuntime == "" {
		if cfg.OCIRuntime, err = findOCIRuntime(); err != nil {
			return nil, err
		}
	}
	r, err := Dial(cfg.Endpoint())
	if err != nil {
		return nil, err
	}
	r.cfg, r.done = cfg, make(chan struct{})
	p, err := r.ensure(ctx)
	if err != nil {
		r.conn.Close()
		return nil, err
	}
	if err := removeOld(cfg.AssetsDir, r.helpers); err != nil {
		cfg.Log.Warn("programs of another version are left", "err", err)
	}
	ctx, r.cancel = context.WithCancel(ctx)
	go r.supervise(ctx, p)
	if cfg.SandboxImage == PauseImage {
		if err := r.importPause(ctx); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

// ensure brings about a running containerd with our configuration.
func (r *Runtime) ensure(ctx context.Context) (*process, error) {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{r.cfg.Root, 0o711}, {r.cfg.State, 0o711}, {filepath.Join(r.cfg.Root, "tmp"), 0o700}, {r.cfg.CNIConfDir, 0o755}, {r.cfg.shimSockets(), 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return nil, fmt.Errorf("prepare the container runtime: %w", err)
		}
	}
	var err error
	if r.helpers, err = extract(r.cfg.AssetsDir); err != nil {
		return nil, err
	}
	snapshotter := r.snapshotter()
	want, err := r.cfg.render(r.helpers, snapshotter)
	if err != nil {
		return nil, err
	}
	running, err := find(r.cfg.socket())
	if err != nil {
		return nil, err
	}
	have, _ := os.ReadFile(r.cfg.configFile())
	if running != nil {
		if bytes.Equal(have, want) && running.program() == r.helpers.containerd {
			r.cfg.Log.Debug("found containerd running", "pid", running.pid)
			return running, nil
		}
		// Another version or configuration: containers do not notice.
		r.cfg.Log.Info("restarting containerd with a new configuration", "pid", running.pid)
		running.end(10 * time.Second)
		running.pidfd.Close()
	}
	if !bytes.Equal(have, want) {
		if err := atomicfile.WriteLight(r.cfg.configFile(), want, 0o600); err != nil {
			return nil, fmt.Errorf("write containerd's configuration: %w", err)
		}
	}
	return r.launch(ctx)
}

// snapshotter is overlayfs where that works. What was chosen once is kept,
// because images are not shared between the two.
func (r *Runtime) snapshotter() string {
	data := filepath.Join(r.cfg.Root, "containerd")
	for _, s := range []string{"overlayfs", "native"} {
		if _, err := os.Stat(filepath.Join(data, "io.containerd.snapshotter.v1."+s, "metadata.db")); err == nil {
			return s
		}
	}
	if overlayWorks(r.cfg.Root) {
		return "overlayfs"
	}
	r.cfg.Log.Warn("overlay file systems do not work here; images are copied for every container", "root", r.cfg.Root)
	return "native"
}

func (r *Runtime) importPause(ctx context.Context) error {
	_, imageSvc := r.CRI()
	res, err := imageSvc.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: PauseImage}})
	if err != nil {
		return fmt.Errorf("look for the sandbox image: %w", err)
	}
	if res.GetImage() != nil {
		return nil
	}
	img, err := archive.Pause(PauseImage, goruntime.GOARCH)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := archive.Write(&b, img); err != nil {
		return err
	}
	if _, err := images.Import(ctx, r.conn, &b, ""); err != nil {
		return fmt.Errorf("import the sandbox image: %w", err)
	}
	return nil
}

// CRI returns the clients of the two services. They share one connection and
// reconnect by themselves.
func (r *Runtime) CRI() (runtimeapi.RuntimeServiceClient, runtimeapi.ImageServiceClient) {
	if r.done == nil { // not ours
		return runtimeapi.NewRuntimeServiceClient(r.conn), runtimeapi.NewImageServiceClient(r.conn)
	}
	return runtimeapi.NewRuntimeServiceClient(r.conn), images.Service(r.conn)
}

// PullProgress says how many bytes of an image that is being pulled are there
// and how many it has; both are 0 while that is not known.
func (r *Runtime) PullProgress(ctx context.Context, image string) (done, total int64, err error) {
	if r.done == nil {
		return 0, 0, nil // CRI has no such call
	}
	return images.Progress(ctx, r.conn, image)
}

// Conn is the connection itself, for runtime/images.
func (r *Runtime) Conn() *grpc.ClientConn { return r.conn }

// Endpoint is the CRI address, unix:///path.
func (r *Runtime) Endpoint() string { return r.endpoint }

// CgroupRoot is the cgroup path under which the node's pods belong; "" of a
// runtime that someone else runs.
func (r *Runtime) CgroupRoot() string { return r.cfg.CgroupRoot }

// Close ends the supervision and the connection. containerd and the
// containers go on running.
func (r *Runtime) Close() error {
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
	return r.conn.Close()
}
