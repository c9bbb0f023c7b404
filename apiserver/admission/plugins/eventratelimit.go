package plugins

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"

	"github.com/coxswain/cox/apiserver/admission"
)

// eventLimit bounds the events of one kind of bucket.
type eventLimit struct {
	Type      string `json:"type"`
	QPS       int32  `json:"qps"`
	Burst     int32  `json:"burst"`
	CacheSize int32  `json:"cacheSize"`
}

// The kinds of buckets: all events have one, or those of a namespace, of a
// user, or of a source about an object.
const (
	limitServer    = "Server"
	limitNamespace = "Namespace"
	limitUser      = "User"
	limitSource    = "SourceAndObject"
)

// buckets is how many a limit has that does not say.
const buckets = 4096

// eventRateLimit keeps who floods the server with events from doing so.
func eventRateLimit(c *Config, _ deps) (*plugin, error) {
	var conf struct {
		Kind       string       `json:"kind"`
		APIVersion string       `json:"apiVersion"`
		Limits     []eventLimit `json:"limits"`
	}
	if _, err := c.config("EventRateLimit", kinds{"eventratelimit.admission.k8s.io/v1alpha1": "Configuration"}, &conf); err != nil {
		return nil, err
	}
	if err := checkEventLimits(conf.Limits).ToAggregate(); err != nil {
		return nil, badConfig("EventRateLimit", err)
	}
	var limiters []*eventLimiter
	for _, l := range conf.Limits {
		limiters = append(limiters, newEventLimiter(l))
	}
	return &plugin{ops: ops(admission.Create, admission.Update), validate: func(_ context.Context, a *admission.Attributes) error {
		event, ok := a.Object.(*corev1.Event)
		if !ok || a.Resource.Group != "" || a.DryRun {
			return nil
		}
		var over []error
		for _, l := range limiters { // each is charged, whatever the others say
			if key := l.key(a, event); !l.accept(key) {
				over = append(over, fmt.Errorf("limit reached on type %v for key %v", l.Type, key))
			}
		}
		if len(over) > 0 {
			return apierrors.NewTooManyRequestsError(utilerrors.NewAggregate(over).Error())
		}
		return nil
	}}, nil
}

func checkEventLimits(limits []eventLimit) field.ErrorList {
	at := field.NewPath("limits")
	if len(limits) == 0 {
		return field.ErrorList{field.Invalid(at, limits, "must not be empty")}
	}
	var errs field.ErrorList
	for i, l := range limits {
		p := at.Index(i)
		switch l.Type {
		case limitServer, limitNamespace, limitUser, limitSource:
		default:
			errs = append(errs, field.NotSupported(p.Child("type"), l.Type, []string{limitServer, limitNamespace, limitUser, limitSource}))
		}
		if l.Burst <= 0 {
			errs = append(errs, field.Invalid(p.Child("burst"), l.Burst, "must be positive"))
		}
		if l.QPS <= 0 {
			errs = append(errs, field.Invalid(p.Child("qps"), l.QPS, "must be positive"))
		}
		if l.Type != limitServer && l.CacheSize < 0 {
			errs = append(errs, field.Invalid(p.Child("cacheSize"), l.CacheSize, "must not be negative"))
		}
	}
	return errs
}

// eventLimiter has a bucket per key and forgets those that were not asked for
// longest.
type eventLimiter struct {
	eventLimit
	mu   sync.Mutex
	keys *lru.Cache
}

func newEventLimiter(l eventLimit) *eventLimiter {
	n := int(l.CacheSize)
	switch {
	case l.Type == limitServer:
		n = 1
	case n == 0:
		n = buckets
	}
	return &eventLimiter{eventLimit: l, keys: lru.New(n)}
}

func (l *eventLimiter) key(a *admission.Attributes, e *corev1.Event) string {
	switch l.Type {
	case limitNamespace:
		return a.Namespace
	case limitUser:
		return a.User.Name
	case limitSource:
		o := &e.InvolvedObject
		return strings.Join([]string{e.Source.Component, e.Source.Host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion}, "")
	}
	return ""
}

func (l *eventLimiter) accept(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.keys.Get(key)
	if !ok {
		b = flowcontrol.NewTokenBucketPassiveRateLimiter(float32(l.QPS), int(l.Burst))
		l.keys.Add(key, b)
	}
	return b.(flowcontrol.PassiveRateLimiter).TryAccept()
}
