package flow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// only returns a controller with one limited level beside the mandatory ones,
// which has the given seats and queues (0: none) and takes everyone, each user
// being a flow.
func only(t *testing.T, seats, queues, hand, length int) *Controller {
	t.Helper()
	c := New(Config{Seats: seats})
	t.Cleanup(c.Close)
	l := level("mine", 1, 0, int32(queues), int32(hand))
	l.UID = "level-uid"
	if queues > 0 {
		l.Spec.Limited.LimitResponse.Queuing.QueueLengthLimit = int32(length)
	}
	zero := level("catch-all", 0, 0, 0, 0)
	s := schema("mine", "mine", 2, flowcontrolv1.FlowDistinguisherMethodByUserType, everything(groups("*")))
	s.UID = types.UID("schema-uid")
	c.load([]*flowcontrolv1.PriorityLevelConfiguration{l, zero}, []*flowcontrolv1.FlowSchema{s})
	if got := c.class.Load().pools["mine"].limit; got != seats {
		t.Fatalf("the level has %d seats, want %d", got, seats)
	}
	return c
}

func by(name string) *Attributes {
	return &Attributes{User: &client.User{Name: name, Groups: []string{"system:authenticated"}}, Verb: "get", Resource: "pods", Version: "v1", Namespace: "default"}
}

func TestSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := only(t, 2, 8, 2, 10)
		ctx := t.Context()
		a, err := c.Take(ctx, by("a"))
		if err != nil {
			t.Fatal(err)
		}
		if s, l := a.UIDs(); !slices.Equal(s, []string{"schema-uid"}) || !slices.Equal(l, []string{"level-uid"}) {
			t.Error(s, l)
		}
		b, _ := c.Take(ctx, by("a"))
		third := make(chan error)
		go func() {
			turn, err := c.Take(ctx, by("a"))
			defer turn.Release()
			third <- err
		}()
		synctest.Wait()
		select {
		case err := <-third:
			t.Fatalf("a third request ran on two seats: %v", err)
		default:
		}
		a.Release()
		a.Release() // does nothing
		if err := <-third; err != nil {
			t.Error(err)
		}
		b.Release()
		p := c.class.Load().pools["mine"]
		synctest.Wait()
		if p.inUse != 0 || p.executing != 0 || p.waiting != 0 || p.queues != nil {
			t.Errorf("left behind: %d seats, %d executing, %d waiting, queues %v", p.inUse, p.executing, p.waiting, p.queues)
		}
	})
}

// A request that nobody makes room for is refused, for the right reason.
func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		name           string
		queues, length int
		waiting        int // requests in the queue before
		deadline       time.Duration
		want           reason
		after          time.Duration
	}{
		{name: "no queues", want: tooMany},
		{name: "full queue", queues: 1, length: 2, waiting: 2, want: queueFull},
		{name: "patience", queues: 1, length: 2, want: timedOut, after: 15 * time.Second},
		{name: "deadline", queues: 1, length: 2, deadline: 3 * time.Second, want: timedOut, after: 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := only(t, 1, tc.queues, 1, tc.length)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				held, err := c.Take(ctx, by("a"))
				if err != nil {
					t.Fatal(err)
				}
				for range tc.waiting {
					go func() {
						turn, _ := c.Take(ctx, by("a"))
						turn.Release()
					}()
				}
				synctest.Wait()
				mine, begin := ctx, time.Now()
				if tc.deadline > 0 {
					var end context.CancelFunc
					mine, end = context.WithTimeout(ctx, tc.deadline)
					defer end()
				}
				turn, err := c.Take(mine, by("a"))
				if !apierrors.IsTooManyRequests(err) {
					t.Fatalf("got %v, want 429", err)
				}
				if s, ok := apierrors.SuggestsClientDelay(err); !ok || s != 1 {
					t.Errorf("suggested delay %d, %t", s, ok)
				}
				if s, _ := turn.UIDs(); s == nil {
					t.Error("a refused request does not say how it was classified")
				}
				if took := time.Since(begin); took != tc.after {
					t.Errorf("refused after %v, want %v", took, tc.after)
				}
				p := c.class.Load().pools["mine"]
				if n := p.usages["mine"].rejected[tc.want]; n != 1 {
					t.Errorf("%d refused for %q, want 1: %v", n, tc.want, p.usages["mine"].rejected)
				}
				held.Release()
				cancel()
				synctest.Wait()
				if p.inUse != 0 || p.waiting != 0 || p.wanted != 0 {
					t.Errorf("left behind: %d seats, %d waiting for %d", p.inUse, p.waiting, p.wanted)
				}
			})
		})
	}
}

// A user with many requests at once does not keep one with few from its share.
func TestFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := only(t, 4, 64, 4, 100)
		ctx, cancel := context.WithCancel(t.Context())
		counts := map[string]*atomic.Int64{"elephant": {}, "mouse": {}}
		var wg sync.WaitGroup
		run := func(user string, callers int) {
			for range callers {
				wg.Go(func() {
					for ctx.Err() == nil {
						turn, err := c.Take(ctx, by(user))
						if err != nil {
							continue
						}
						time.Sleep(10 * time.Millisecond)
						turn.Release()
						counts[user].Add(1)
					}
				})
			}
		}
		run("elephant", 100)
		run("mouse", 4)
		time.Sleep(20 * time.Second)
		cancel()
		wg.Wait()
		e, m := counts["elephant"].Load(), counts["mouse"].Load()
		if total := e + m; total < 7500 { // 4 seats for 20 s of 10 ms
			t.Errorf("only %d requests: seats stayed empty", total)
		}
		if m < e/2 { // by callers it would be a twenty-fifth
			t.Errorf("4 callers got %d turns beside the %d of 100: not a fair share", m, e)
		}
	})
}

// A request that takes longer than others is charged for it.
func TestFairBySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := only(t, 1, 64, 4, 100)
		ctx, cancel := context.WithCancel(t.Context())
		var used [2]atomic.Int64
		var wg sync.WaitGroup
		for i, each := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
			for range 10 {
				wg.Go(func() {
					for ctx.Err() == nil {
						if turn, err := c.Take(ctx, by(fmt.Sprint("user", i))); err == nil {
							time.Sleep(each)
							turn.Release()
							used[i].Add(int64(each))
						}
					}
				})
			}
		}
		time.Sleep(30 * time.Second)
		cancel()
		wg.Wait()
		quick, slow := time.Duration(used[0].Load()), time.Duration(used[1].Load())
		if quick < slow/2 || slow < quick/2 { // without the charge a twentieth
			t.Errorf("the seat was held %v by quick requests and %v by slow ones", quick, slow)
		}
	})
}

// A wide request gets its seats although narrow ones keep coming, and one
// wider than the level takes all of it.
func TestWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := only(t, 4, 8, 8, 100)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if turn, err := c.Take(ctx, by(fmt.Sprint("narrow", i))); err == nil {
						time.Sleep(10 * time.Millisecond)
						turn.Release()
					}
				}
			})
		}
		time.Sleep(time.Second)
		wide := by("wide")
		wide.Seats = 10
		turn, err := c.Take(ctx, wide)
		if err != nil {
			t.Fatal(err)
		}
		if p := c.class.Load().pools["mine"]; p.inUse != 4 || p.executing != 1 {
			t.Errorf("beside the wide request %d are carried out on %d seats", p.executing-1, p.inUse)
		}
		turn.Release()
		cancel()
		wg.Wait()
	})
}

// Under load of all kinds, no seat is lost or given twice.
func TestSeatsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := only(t, 5, 16, 3, 4)
		var inUse atomic.Int64
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				for n := range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+(i*n)%40)*time.Millisecond)
					a := by(fmt.Sprint("user", i%7))
					a.Seats = 1 + (i+n)%3
					turn, err := c.Take(ctx, a)
					if err == nil {
						if got := inUse.Add(int64(turn.seats)); got > 5 {
							t.Errorf("%d seats in use of 5", got)
						}
						time.Sleep(time.Duration((i+n)%9) * time.Millisecond)
						inUse.Add(-int64(turn.seats))
					}
					turn.Release()
					cancel()
				}
			})
		}
		wg.Wait()
		if p := c.class.Load().pools["mine"]; p.inUse+p.waiting+p.wanted+p.executing != 0 || p.queues != nil {
			t.Errorf("left behind: %+v", p)
		}
	})
}

func TestDeal(t *testing.T) {
	d := newDealer(128, 6)
	counts := make([]int, 128)
	for i := range 5000 {
		hand := d.deal(nil, "schema", fmt.Sprint(i))
		if !slices.Equal(hand, d.deal(nil, "schema", fmt.Sprint(i))) {
			t.Fatal("a flow's hand changes")
		}
		if len(slices.Compact(hand)) != 6 || hand[0] < 0 || hand[5] > 127 {
			t.Fatal("no hand of 6 different queues:", hand)
		}
		for _, q := range hand {
			counts[q]++
		}
	}
	for q, n := range counts { // 234 each, on average
		if n < 150 || n > 330 {
			t.Errorf("queue %d is in %d hands of 5000", q, n)
		}
	}
	if hand := newDealer(3, 8).deal(nil, "", ""); !slices.Equal(hand, []int{0, 1, 2}) {
		t.Error("a hand larger than the deck:", hand)
	}
}

func TestDivide(t *testing.T) {
	for _, tc := range []struct {
		name   string
		shares []share
		want   []int
	}{
		{"idle", []share{{10, 5, 30, 0}, {20, 10, 30, 0}}, []int{10, 20}},
		{"within their own", []share{{10, 5, 30, 10}, {20, 10, 30, 20}}, []int{10, 20}},
		{"one needs, the other lends what it may", []share{{10, 5, 30, 100}, {20, 8, 30, 0}}, []int{22, 8}},
		{"not more than is lent", []share{{10, 10, 30, 100}, {20, 20, 30, 0}}, []int{10, 20}},
		{"not more than may be borrowed", []share{{10, 5, 12, 100}, {20, 0, 30, 0}}, []int{12, 18}},
		{"the lender needs its seats itself", []share{{10, 0, 30, 100}, {20, 0, 30, 15}}, []int{15, 15}},
		{"both need", []share{{10, 0, 30, 100}, {20, 0, 30, 100}}, []int{10, 20}},
		{"two borrowers", []share{{10, 10, 60, 30}, {10, 10, 60, 60}, {40, 10, 60, 10}}, []int{17, 33, 10}},
	} {
		got := divide(tc.shares)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A level that lacks seats gets those that another lends, and gives them back.
func TestBorrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Seats: 20})
		defer c.Close()
		a, b := level("a", 10, 50, 8, 8), level("b", 10, 50, 8, 8)
		sa := schema("a", "a", 2, "", everything(users("a")))
		sb := schema("b", "b", 2, "", everything(users("b")))
		c.load([]*flowcontrolv1.PriorityLevelConfiguration{a, b, level("catch-all", 0, 0, 0, 0)}, []*flowcontrolv1.FlowSchema{sa, sb})
		ctx := t.Context()
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var running, most atomic.Int64
		for range 30 {
			wg.Go(func() {
				for {
					turn, err := c.Take(ctx, by("a"))
					if err == nil {
						n := running.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						time.Sleep(50 * time.Millisecond)
						running.Add(-1)
						turn.Release()
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		time.Sleep(3 * time.Second)
		if n := most.Load(); n != 15 {
			t.Errorf("%d at once: want 10 of its own and the 5 that the other lends", n)
		}
		close(stop)
		wg.Wait()
		time.Sleep(time.Minute)
		synctest.Wait() // for the timers' goroutines
		pools := c.class.Load().pools
		if pools["a"].limit != 10 || pools["b"].limit != 10 || c.looking.Load() {
			t.Errorf("afterwards %d and %d seats, still looking: %t", pools["a"].limit, pools["b"].limit, c.looking.Load())
		}
	})
}

func BenchmarkTake(b *testing.B) {
	c := New(Config{})
	defer c.Close()
	for _, u := range []client.User{
		{Name: "admin", Groups: []string{"system:masters", "system:authenticated"}},
		{Name: "system:node:n", Groups: []string{"system:nodes", "system:authenticated"}},
		client.ServiceAccountUser("default", "app"),
		{Name: "somebody", Groups: []string{"system:authenticated"}},
	} {
		b.Run(u.Name, func(b *testing.B) {
			b.ReportAllocs()
			a := Attributes{User: &u, Verb: "get", Resource: "configmaps", Version: "v1", Namespace: "default", Name: "x"}
			for b.Loop() {
				turn, err := c.Take(b.Context(), &a)
				if err != nil {
					b.Fatal(err)
				}
				turn.Release()
			}
		})
	}
}
