package flow

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Handlers answer /debug/api_priority_and_fairness/...: tables for people,
// with the columns of "API Priority and Fairness", section Debug endpoints.
func (c *Controller) Handlers() map[string]http.Handler {
	const at = "/debug/api_priority_and_fairness/"
	return map[string]http.Handler{
		at + "dump_priority_levels": dump(c.dumpLevels),
		at + "dump_queues":          dump(c.dumpQueues),
		at + "dump_requests":        dump(c.dumpRequests),
	}
}

type row func(cells ...any)

// dump answers with a table that fill writes row by row.
func dump(fill func(row, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		t := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
		fill(func(cells ...any) {
			text := make([]string, len(cells))
			for i, c := range cells {
				text[i] = strings.Map(printable, fmt.Sprint(c))
			}
			fmt.Fprintln(t, strings.Join(text, ",\t"))
		}, r)
		_ = t.Flush() // else the client is gone
	})
}

// printable keeps what a user chose from breaking the table.
func printable(r rune) rune {
	if r < ' ' || r == ',' {
		return '_'
	}
	return r
}

func (c *Controller) sorted() []*pool {
	var out []*pool
	for _, p := range c.class.Load().pools {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pool) int { return cmp.Compare(a.name, b.name) })
	return out
}

func (c *Controller) dumpLevels(row row, _ *http.Request) {
	row("PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
		"DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests")
	for _, p := range c.sorted() {
		p.mu.Lock()
		var dispatched, rejected, late, gone uint64
		for _, u := range p.usages {
			dispatched += u.dispatched
			rejected += u.rejected[tooMany] + u.rejected[queueFull]
			late += u.rejected[timedOut]
			gone += u.rejected[cancelled]
		}
		active, waiting, executing := len(p.queues), p.waiting, p.executing
		p.mu.Unlock()
		row(p.name, active, waiting == 0 && executing == 0, false, waiting, executing, dispatched, rejected, late, gone)
	}
}

// queuesByIndex are the queues in use. The pool's lock is held.
func (p *pool) queuesByIndex() []*queue {
	var out []*queue
	for _, q := range p.queues {
		out = append(out, q)
	}
	slices.SortFunc(out, func(a, b *queue) int { return a.index - b.index })
	return out
}

func (c *Controller) dumpQueues(row row, _ *http.Request) {
	row("PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
		"InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum")
	for _, p := range c.sorted() {
		p.mu.Lock()
		var rows [][]any
		for _, q := range p.queuesByIndex() {
			rows = append(rows, []any{p.name, q.index, len(q.list), q.executing, q.inUse, fmt.Sprintf("%.8fss", q.start),
				q.seats, q.seats, fmt.Sprintf("%.8fss", float64(q.seats)*p.average)})
		}
		p.mu.Unlock()
		for _, r := range rows {
			row(r...)
		}
	}
}

func (c *Controller) dumpRequests(row row, r *http.Request) {
	details := r.URL.Query().Get("includeRequestDetails") == "1"
	head := []any{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
		"InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	row(head...)
	for _, p := range c.sorted() {
		p.mu.Lock()
		var rows [][]any
		for _, q := range p.queuesByIndex() {
			for i, w := range q.list {
				cells := []any{p.name, w.usage.schema, q.index, i, w.flow, w.arrived.UTC().Format(time.RFC3339Nano), w.seats, 0, "0s", "0001-01-01T00:00:00Z"}
				if details {
					a := &w.a
					cells = append(cells, w.user, a.Verb, a.Path, a.Namespace, a.Name, strings.TrimPrefix(a.Group+"/"+a.Version, "/"), a.Resource, a.Subresource)
				}
				rows = append(rows, cells)
			}
		}
		p.mu.Unlock()
		for _, r := range rows {
			row(r...)
		}
	}
}
