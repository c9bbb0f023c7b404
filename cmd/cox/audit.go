package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/callout"
)

// auditConfig is where the records of requests go. The flags have upstream's
// names.
type auditConfig struct {
	LogMaxAge, LogMaxBackup, LogMaxSize int
	LogFormat                           string
	Webhook                             string
	WebhookBackoff                      time.Duration

	log, hook auditBackend
}

// auditBackend is how one backend is fed.
type auditBackend struct {
	Mode        string
	Buffer      int
	Size        int
	Wait        time.Duration
	Throttle    bool
	QPS         float32
	Burst       int
	Truncate    bool
	MaxEvent    int
	maxBatchSet int // taken for upstream's sake: a batch here is bounded by its events
}

const (
	auditBatch    = "batch"
	auditBlocking = "blocking"
	auditStrict   = "blocking-strict"
)

func (a *auditConfig) flags(fs *pflag.FlagSet) {
	fs.IntVar(&a.LogMaxAge, "audit-log-maxage", 0, "days that files of audit records are kept (0: no bound)")
	fs.IntVar(&a.LogMaxBackup, "audit-log-maxbackup", 10, "files of audit records that are kept beside the present one (0: all)")
	fs.IntVar(&a.LogMaxSize, "audit-log-maxsize", 100, "megabytes at which a new file of audit records is begun")
	fs.StringVar(&a.LogFormat, "audit-log-format", "json", "form of the audit records in the file: json")
	fs.StringVar(&a.Webhook, "audit-webhook-config-file", "", "kubeconfig of a server that audit records are sent to")
	fs.DurationVar(&a.WebhookBackoff, "audit-webhook-initial-backoff", 10*time.Second, "how long to wait before sending to it again")
	a.log.flags(fs, "audit-log", auditBlocking, 1, 0, false)
	a.hook.flags(fs, "audit-webhook", auditBatch, 400, 30*time.Second, true)
}

func (b *auditBackend) flags(fs *pflag.FlagSet, name, mode string, size int, wait time.Duration, throttle bool) {
	fs.StringVar(&b.Mode, name+"-mode", mode, "whether requests wait for their records: batch (no), blocking, or blocking-strict (and fail without)")
	fs.IntVar(&b.Buffer, name+"-batch-buffer-size", 10000, "records that wait at most, in the mode batch")
	fs.IntVar(&b.Size, name+"-batch-max-size", size, "records of a batch at most")
	fs.DurationVar(&b.Wait, name+"-batch-max-wait", wait, "how long a batch waits to become full")
	fs.BoolVar(&b.Throttle, name+"-batch-throttle-enable", throttle, "whether the batches per second are bounded")
	fs.Float32Var(&b.QPS, name+"-batch-throttle-qps", 10, "batches per second")
	fs.IntVar(&b.Burst, name+"-batch-throttle-burst", 15, "batches sent at once after a pause")
	fs.BoolVar(&b.Truncate, name+"-truncate-enabled", false, "leave the bodies out of records that are too large")
	fs.IntVar(&b.MaxEvent, name+"-truncate-max-event-size", 102400, "bytes of a record at most")
	fs.IntVar(&b.maxBatchSet, name+"-truncate-max-batch-size", 10485760, "bytes of a batch at most")
}

// sink puts a backend behind what its mode asks for. one is used when requests
// wait, many when they do not.
func (cp *controlPlane) auditSink(b *auditBackend, plugin string, one audit.Sink, many audit.BatchSink, failed func(error)) (audit.Sink, error) {
	flag := "audit-" + plugin
	switch b.Mode {
	case auditBlocking, auditStrict:
	case auditBatch:
		o := audit.BatchOptions{Buffer: b.Buffer, Size: b.Size, Wait: b.Wait, Burst: b.Burst, NoLimit: !b.Throttle, Failed: failed}
		if b.Throttle {
			if b.QPS <= 0 {
				return nil, fmt.Errorf("--%s-batch-throttle-qps must be more than 0", flag)
			}
			o.Every = time.Duration(float64(time.Second) / float64(b.QPS))
		}
		batch := audit.NewBatch(cp.records.Batches(plugin, many), o)
		cp.closers = append(cp.closers, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := batch.Close(ctx); err != nil {
				failed(err)
			}
		})
		one = batch
	default:
		return nil, fmt.Errorf("--%s-mode %q: want %s, %s or %s", flag, b.Mode, auditBatch, auditBlocking, auditStrict)
	}
	if b.Truncate {
		one = audit.Truncated(one, b.MaxEvent)
	}
	return cp.records.Sink(plugin, one), nil
}

// openAudit opens what the records of requests are written to; nil when
// nothing is to be recorded.
func (cp *controlPlane) openAudit() (*audit.Log, error) {
	c, a := cp.cfg, &cp.cfg.audit
	cp.records = audit.NewCounts()
	if c.AuditPolicyFile == "" {
		if c.AuditLogPath != "" || a.Webhook != "" {
			return nil, errors.New("without --audit-policy-file nothing is recorded: give one, or neither --audit-log-path nor --audit-webhook-config-file")
		}
		return nil, nil
	}
	policy, err := audit.LoadPolicy(c.AuditPolicyFile)
	if err != nil {
		return nil, fmt.Errorf("--audit-policy-file: %w", err)
	}
	failed := func(err error) { cp.log.Error("audit records are being lost", "error", err) }
	var sinks []audit.Sink
	if c.AuditLogPath != "" || a.Webhook == "" {
		s, err := cp.auditFile(failed)
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, s)
	}
	if a.Webhook != "" {
		target, err := callout.Open(a.Webhook)
		if err != nil {
			return nil, fmt.Errorf("--audit-webhook-config-file: %w", err)
		}
		hook := audit.NewWebhook(target, a.WebhookBackoff)
		s, err := cp.auditSink(&a.hook, "webhook", hook, hook, failed)
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, s)
	}
	log := audit.New(policy, audit.Tee(sinks...), time.Now, failed)
	log.Count(cp.records)
	if a.log.Mode == auditStrict || a.hook.Mode == auditStrict {
		log.Strict()
	}
	return log, nil
}

func (cp *controlPlane) auditFile(failed func(error)) (audit.Sink, error) {
	c, a := cp.cfg, &cp.cfg.audit
	if a.LogFormat != "json" {
		return nil, fmt.Errorf("--audit-log-format %q: only json is written", a.LogFormat)
	}
	if c.AuditLogPath == "-" {
		out := audit.SinkFunc(func(ev *auditv1.Event) error {
			line, err := json.Marshal(ev)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(append(line, '\n'))
			return err
		})
		return cp.auditSink(&a.log, "log", out, audit.Singly(out), failed)
	}
	path := c.AuditLogPath
	if path == "" {
		path = c.dir("log", "audit.log")
	}
	file, err := audit.OpenFile(audit.FileOptions{
		Path: path, MaxBytes: int64(a.LogMaxSize) << 20, MaxBackups: a.LogMaxBackup, MaxAge: time.Duration(a.LogMaxAge) * 24 * time.Hour, Now: time.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("--audit-log-path: %w", err)
	}
	cp.closers = append(cp.closers, func() { _ = file.Close() })
	return cp.auditSink(&a.log, "log", file, audit.Singly(file), failed)
}
