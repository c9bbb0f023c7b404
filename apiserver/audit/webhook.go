package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/apiserver/callout"
)

// Webhook is a sink that posts events as an audit.k8s.io/v1 EventList to a
// server. As a Sink the request waits for it; behind a Batch none does.
type Webhook struct {
	target *callout.Target
	retry  callout.Retry
}

// NewWebhook makes a webhook. backoff is the pause before a second attempt;
// there are five.
func NewWebhook(target *callout.Target, backoff time.Duration) *Webhook {
	return &Webhook{target, callout.Retry{Steps: 5, First: backoff, Factor: 1.5}}
}

// webhookTimeout bounds one batch with all its attempts.
const webhookTimeout = 3 * time.Minute

// WriteBatch implements BatchSink.
func (w *Webhook) WriteBatch(ctx context.Context, evs []*auditv1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	list := &auditv1.EventList{
		TypeMeta: metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "EventList"},
		Items:    make([]auditv1.Event, len(evs)),
	}
	for i, ev := range evs {
		list.Items[i] = *ev
	}
	if err := w.target.Ask(ctx, list, nil, w.retry); err != nil {
		return fmt.Errorf("audit webhook: %w", err)
	}
	return nil
}

// Write implements Sink.
func (w *Webhook) Write(ev *auditv1.Event) error {
	return w.WriteBatch(context.Background(), []*auditv1.Event{ev})
}

// Truncated passes on events that are no larger than most bytes, and of larger
// ones what is left without the bodies; what is too large even so is dropped.
func Truncated(next Sink, most int) Sink {
	return SinkFunc(func(ev *auditv1.Event) error {
		if size(ev) <= most {
			return next.Write(ev)
		}
		small := *ev
		small.RequestObject, small.ResponseObject = nil, nil
		small.Annotations = map[string]string{}
		for k, v := range ev.Annotations {
			small.Annotations[k] = v
		}
		small.Annotations["audit.k8s.io/truncated"] = "true"
		if n := size(&small); n > most {
			return fmt.Errorf("event is too large: %d bytes without its bodies, %d are allowed", n, most)
		}
		return next.Write(&small)
	})
}

func size(ev *auditv1.Event) int {
	b, err := json.Marshal(ev)
	if err != nil {
		return 0 // the sink will say so
	}
	return len(b)
}

// Tee writes to several sinks; all get the event whatever the others say.
func Tee(all ...Sink) Sink {
	if len(all) == 1 {
		return all[0]
	}
	return SinkFunc(func(ev *auditv1.Event) error {
		var first error
		for _, s := range all {
			if err := s.Write(ev); err != nil && first == nil {
				first = err
			}
		}
		return first
	})
}
