package flow

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// Which objects are put right, and which are their owner's.
func TestPlan(t *testing.T) {
	const auto = flowcontrolv1.AutoUpdateAnnotationKey
	find := func(name string) *flowcontrolv1.FlowSchema {
		for _, s := range DefaultSchemas() {
			if s.Name == name {
				s.Spec.MatchingPrecedence++ // as someone has changed it
				return s
			}
		}
		t.Fatal(name)
		return nil
	}
	for _, tc := range []struct {
		name, schema string
		change       func(*flowcontrolv1.FlowSchema)
		want         string // the annotation of the update; "" for none
		restored     bool
	}{
		{"kept by default", "service-accounts", func(*flowcontrolv1.FlowSchema) {}, "true", true},
		{"the owner's", "service-accounts", func(s *flowcontrolv1.FlowSchema) { s.Annotations[auto] = "false" }, "", false},
		{"never changed since made", "service-accounts", func(s *flowcontrolv1.FlowSchema) { s.Annotations, s.Generation = nil, 1 }, "true", true},
		{"changed since made", "service-accounts", func(s *flowcontrolv1.FlowSchema) { s.Annotations, s.Generation = nil, 2 }, "false", false},
		{"no boolean", "service-accounts", func(s *flowcontrolv1.FlowSchema) { s.Annotations[auto], s.Generation = "perhaps", 1 }, "true", true},
		{"mandatory", "catch-all", func(s *flowcontrolv1.FlowSchema) { s.Annotations[auto] = "false" }, "true", true},
		{"mandatory without annotation", "exempt", func(s *flowcontrolv1.FlowSchema) { s.Annotations, s.Generation = nil, 7 }, "true", true},
	} {
		s := find(tc.schema)
		tc.change(s)
		_, w := plan(nil, []*flowcontrolv1.FlowSchema{s})
		if len(w.create) != len(DefaultSchemas())-1 {
			t.Errorf("%s: %d to be created", tc.name, len(w.create))
		}
		switch {
		case tc.want == "" && len(w.update) == 0:
		case tc.want == "" || len(w.update) != 1 || w.update[0].Annotations[auto] != tc.want:
			t.Errorf("%s: updates %v", tc.name, w.update)
		case tc.restored != (w.update[0].Spec.MatchingPrecedence == s.Spec.MatchingPrecedence-1):
			t.Errorf("%s: precedence %d", tc.name, w.update[0].Spec.MatchingPrecedence)
		}
	}
}

// The shares of the level exempt are its owner's, the rest of it is not.
func TestPlanExempt(t *testing.T) {
	for _, l := range DefaultLevels() {
		if !mandatory(l.Name) {
			continue
		}
		five := int32(5)
		if e := l.Spec.Exempt; e != nil {
			e.NominalConcurrencyShares = &five
		} else {
			l.Spec.Limited.NominalConcurrencyShares = &five
		}
		w, _ := plan([]*flowcontrolv1.PriorityLevelConfiguration{l}, nil)
		if l.Name == "catch-all" {
			continue // five is its default
		}
		if len(w.update) != 0 {
			t.Errorf("%s: %v", l.Name, w.update)
		}
	}
}

func eventually(t *testing.T, door client.Interface, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w1, err := Schemas.In(door, "").Watch(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w1.Stop()
	w2, err := Levels.In(door, "").Watch(ctx, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Stop()
	for !ok() {
		select {
		case <-w1.ResultChan():
		case <-w2.ResultChan():
		case <-ctx.Done():
			t.Fatal("not in a minute:", what)
		}
	}
}

// The default objects are made, made again, and every schema says whether its
// level exists; a new schema takes effect.
func TestRun(t *testing.T) {
	door := &doortest.Door{}
	mine := DefaultSchemas()[5]
	mine.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	mine.Spec.MatchingPrecedence = 7
	doortest.Put(door, Schemas, mine)
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Config{Door: door})
	defer c.Close()
	synced, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() { close(synced) }) }()
	<-synced
	in := Schemas.In(door, "")
	condition := func(name string, want flowcontrolv1.ConditionStatus, reason string) func() bool {
		return func() bool {
			s, err := in.Get(t.Context(), name)
			return err == nil && len(s.Status.Conditions) == 1 && s.Status.Conditions[0].Status == want && s.Status.Conditions[0].Reason == reason
		}
	}
	eventually(t, door, "all schemas found their levels", func() bool {
		list, _, err := in.List(t.Context(), client.Options{})
		n := 0
		for _, s := range list {
			if condition(s.Name, flowcontrolv1.ConditionFalse, "Found")() {
				n++
			}
		}
		return err == nil && n == len(DefaultSchemas())
	})
	if kept, err := in.Get(ctx, mine.Name); err != nil || kept.Spec.MatchingPrecedence != 7 {
		t.Errorf("what is its owner's has become %v, %v", kept, err)
	}

	for page, head := range map[string]string{
		"dump_priority_levels": "DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests\n",
		"dump_queues":          "InitialSeatsSum, MaxSeatsSum, TotalWorkSum\n",
		"dump_requests":        "InitialSeats, FinalSeats, AdditionalLatency, StartTime\n",
	} {
		rec := httptest.NewRecorder()
		c.Handlers()["/debug/api_priority_and_fairness/"+page].ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		if !strings.HasPrefix(rec.Body.String(), "PriorityLevelName, ") || !strings.Contains(rec.Body.String(), head) {
			t.Errorf("%s: %s", page, rec.Body)
		}
	}

	own := schema("own", "elsewhere", 10, "", everything(users("me")))
	own.Annotations = nil
	if _, err := in.Create(ctx, own); err != nil {
		t.Fatal(err)
	}
	eventually(t, door, "the schema dangles", condition("own", flowcontrolv1.ConditionTrue, "NotFound"))
	turn, err := c.Take(ctx, by("me"))
	if err != nil || turn.schema.name != "global-default" {
		t.Errorf("a schema without level takes part: %v, %v", turn.schema, err)
	}
	turn.Release()
	if _, err := Levels.In(door, "").Create(ctx, level("elsewhere", 1, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, door, "the level was found", condition("own", flowcontrolv1.ConditionFalse, "Found"))
	if turn, err = c.Take(ctx, by("me")); err != nil || turn.schema.name != "own" || turn.pool.name != "elsewhere" {
		t.Errorf("the schema does not take effect: %v, %v", turn.schema, err)
	}
	turn.Release()

	if err := in.Delete(ctx, "catch-all", client.Options{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, door, "catch-all is back", condition("catch-all", flowcontrolv1.ConditionFalse, "Found"))
	cancel()
	<-ended
}

// Which requests the default schemas take for what.
func TestClassify(t *testing.T) {
	c := New(Config{})
	defer c.Close()
	auth := "system:authenticated"
	node := &client.User{Name: "system:node:n1", Groups: []string{"system:nodes", auth}}
	account := func(ns, name string) *client.User { u := client.ServiceAccountUser(ns, name); return &u }
	manager := &client.User{Name: "system:kube-controller-manager", Groups: []string{auth}}
	for _, tc := range []struct {
		a    Attributes
		want string
	}{
		{Attributes{User: &client.User{Name: "root", Groups: []string{"system:masters"}}, Verb: "delete", Resource: "pods"}, "exempt/exempt"},
		{Attributes{User: &client.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, Verb: "get", Path: "/readyz"}, "probes/exempt"},
		{Attributes{User: &client.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, Verb: "get", Path: "/version"}, "global-default/global-default"},
		{Attributes{User: node, Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n1"}, "system-node-high/node-high"},
		{Attributes{User: node, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease"}, "system-node-high/node-high"},
		{Attributes{User: node, Verb: "get", Resource: "pods", Namespace: "default"}, "system-nodes/system"},
		{Attributes{User: manager, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"}, "system-leader-election/leader-election"},
		{Attributes{User: manager, Verb: "list", Resource: "pods"}, "kube-controller-manager/workload-high"},
		{Attributes{User: account("kube-system", "job-controller"), Verb: "create", Resource: "pods", Namespace: "x"}, "kube-system-service-accounts/workload-high"},
		{Attributes{User: account("kube-system", "endpoint-controller"), Verb: "update", Resource: "endpoints", Namespace: "x"}, "endpoint-controller/workload-high"},
		{Attributes{User: account("x", "app"), Verb: "get", Resource: "pods", Namespace: "x"}, "service-accounts/workload-low"},
		{Attributes{User: &client.User{Name: "jane", Groups: []string{auth}}, Verb: "get", Resource: "pods"}, "global-default/global-default"},
		{Attributes{User: &client.User{Name: "nobody"}, Verb: "get", Resource: "pods"}, "catch-all/catch-all"},
	} {
		turn, err := c.Take(t.Context(), &tc.a)
		if err != nil {
			t.Fatal(err)
		}
		if got := turn.schema.name + "/" + turn.pool.name; got != tc.want {
			t.Errorf("%s by %s: %s, want %s", tc.a.Verb, tc.a.User.Name, got, tc.want)
		}
		turn.Release()
	}
	want := map[string]int{"system": 74, "node-high": 98, "leader-election": 25, "workload-high": 98, "workload-low": 245, "global-default": 49, "catch-all": 13}
	for name, n := range want {
		if got := c.class.Load().pools[name].nominal; got != n {
			t.Errorf("%s has %d seats, want %d", name, got, n)
		}
	}
}
