// Package flow is priority and fairness: it says of each request whose turn
// it is. A request's attributes go in, a turn (or a refusal) comes out, by the
// FlowSchemas and PriorityLevelConfigurations of the cluster, which it follows
// through a door and of which it keeps the default ones. See KEP-1040 and "API
// Priority and Fairness".
package flow

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

// Config is what a Controller is made of.
type Config struct {
	// Door is how the configuration is read and kept; its user must have all
	// rights on the API group and be exempt from flow control.
	Door client.Interface
	// Seats is how many requests are carried out at once by all limited
	// levels together; 0 is 600, as upstream has it.
	Seats int
	// Patience is how long a request waits for its turn at most; 0 is 15 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Controller gives out turns. It is safe for concurrent use.
type Controller struct {
	cfg     Config
	class   atomic.Pointer[classifier]
	metrics *metrics

	looking atomic.Bool // seats are being divided, or will be soon

	mu       sync.Mutex // of what follows and of changing class
	lastLook time.Time
	timer    *time.Timer
	closed   bool
}

// New returns a controller that goes by the default configuration until Run
// has read the cluster's.
func New(cfg Config) *Controller {
	if cfg.Seats == 0 {
		cfg.Seats = 600
	}
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{cfg: cfg, metrics: newMetrics()}
	c.load(DefaultLevels(), DefaultSchemas())
	return c
}

// Turn is the right to be carried out. The zero Turn holds nothing. It is
// used by one goroutine.
type Turn struct {
	pool   *pool
	schema *flowSchema
	usage  *usage
	queue  *queue
	seats  int
	began  time.Time
	guess  float64
	watch  bool
}

// Take waits for a request's turn. The error is a 429, or a 504 when the
// request's time ended before its turn came. Release the turn when the request
// is done.
func (c *Controller) Take(ctx context.Context, a *Attributes) (Turn, error) {
	s := c.class.Load().find(a)
	t, why := s.pool.take(ctx, s, a, time.Now(), c.cfg.Patience, c.starved)
	if why == granted {
		return t, nil
	}
	return Turn{schema: s}, apierrors.NewTooManyRequests("too many requests, please try again later", 1)
}

// Release gives the turn's seats to whoever is next. Calling it again does
// nothing.
func (t *Turn) Release() {
	if t.pool == nil {
		return
	}
	now := time.Now()
	t.pool.end(t, now)
	t.pool = nil
	ran := t.usage.regular
	if t.watch {
		ran = t.usage.watches
	}
	ran.Observe(now.Sub(t.began).Seconds())
}

// UIDs identify the flow schema and the priority level that a request fell
// under, as values for the answer's header, to be read only; they are nil until
// the objects have been read. They hold for a refused request, and after
// Release, too.
func (t *Turn) UIDs() (schema, level []string) {
	if t.schema == nil {
		return nil, nil
	}
	return t.schema.uid, t.schema.levelUID
}

// Close ends what runs in the background. Turns can still be taken.
func (c *Controller) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// ListSeats is how many seats a list takes: one per hundred objects that it
// goes through, up to ten. objects is what the cluster holds of the kind,
// limit how many are asked for (0: all).
func ListSeats(objects int, limit int64) int {
	if limit > 0 && limit < int64(objects) {
		objects = int(limit)
	}
	return min(max((objects+99)/100, 1), 10)
}
