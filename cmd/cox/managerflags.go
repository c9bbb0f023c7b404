package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// moot is a set of upstream's flags that have nothing to act on here. They are
// parsed as upstream's are, so that what starts upstream's controller manager
// starts ours, and who sets one is told why it changes nothing.
type moot struct {
	why                             string
	durations, texts, bools, counts []string
}

func mootFlags() []moot {
	return []moot{{
		why:       "the controllers are told of every change, and look at nothing from time to time",
		durations: []string{"attach-detach-reconcile-sync-period", "min-resync-period", "namespace-sync-period", "pvclaimbinder-sync-period", "resource-quota-sync-period"},
		bools:     []string{"disable-attach-detach-reconcile-sync"},
	}, {
		why:       "what concerns clouds is done by a cloud controller manager",
		durations: []string{"node-monitor-period", "route-reconciliation-period"},
		texts:     []string{"cloud-config", "external-cloud-volume-plugin"},
		bools:     []string{"configure-cloud-routes"},
		counts:    []string{"concurrent-service-syncs"},
	}, {
		why:   "volumes are not recycled, which is deprecated: use dynamic provisioning",
		texts: []string{"pv-recycler-pod-template-filepath-hostpath", "pv-recycler-pod-template-filepath-nfs"},
		counts: []string{"pv-recycler-increment-timeout-nfs", "pv-recycler-minimum-timeout-hostpath", "pv-recycler-minimum-timeout-nfs",
			"pv-recycler-timeout-increment-hostpath"},
	}, {
		why:   "there are no FlexVolumes, which are deprecated: use CSI drivers",
		texts: []string{"flex-volume-plugin-dir"},
	}, {
		why:    "the API server itself checks the types of admission policies",
		counts: []string{"concurrent-validating-admission-policy-status-syncs"},
	}, {
		why:   "requests are in protobuf wherever the API has it",
		texts: []string{"kube-api-content-type"},
	}, {
		why:       "logs are written line by line, at once",
		durations: []string{"log-flush-frequency"},
		texts:     []string{"log-json-info-buffer-size", "log-text-info-buffer-size", "vmodule"},
		bools:     []string{"log-json-split-stream", "log-text-split-stream"},
	}, {
		why:   "the authority of client certificates is looked up when it is first needed",
		bools: []string{"authentication-tolerate-lookup-failure"},
	}, {
		why:   "no metric is hidden",
		texts: []string{"show-hidden-metrics-for-version"},
	}}
}

func (m *moot) names() []string {
	return slices.Concat(m.durations, m.texts, m.bools, m.counts)
}

// fixed is a flag of upstream's of which only some values can be had here.
type fixed struct {
	name, usual string
	others      []string
	why         string
}

func fixedFlags() []fixed {
	return []fixed{
		{"cidr-allocator-type", "RangeAllocator", nil, "clouds' own allocators are a cloud controller manager's"},
		{"cloud-provider", "", []string{"external"}, "clouds' controllers are a cloud controller manager's"},
		{"enable-hostpath-provisioner", "false", nil, "the local provisioner, which always runs, does as much and more"},
		{"enable-leader-migration", "false", nil, "nothing is to be handed over to a cloud controller manager"},
		{"leader-elect-resource-lock", "leases", nil, "1.36 has no other"},
		{"leader-migration-config", "", nil, "nothing is to be handed over to a cloud controller manager"},
		{"requestheader-extra-headers-prefix", "x-remote-extra-", nil, "a proxy names users as the API server's aggregation does"},
		{"requestheader-group-headers", "x-remote-group", nil, "a proxy names users as the API server's aggregation does"},
		{"requestheader-uid-headers", "", []string{"x-remote-uid"}, "a proxy names users as the API server's aggregation does"},
		{"requestheader-username-headers", "x-remote-user", nil, "a proxy names users as the API server's aggregation does"},
	}
}

// compatible are flags of upstream's that have no effect, or only one.
type compatible struct{ fs *pflag.FlagSet }

func (c *compatible) flags(fs *pflag.FlagSet) {
	c.fs = fs
	for _, m := range mootFlags() {
		usage := "accepted, and used for nothing: " + m.why
		for _, name := range m.durations {
			fs.Duration(name, 0, usage)
		}
		for _, name := range m.texts {
			fs.String(name, "", usage)
		}
		for _, name := range m.bools {
			fs.Bool(name, false, usage)
		}
		for _, name := range m.counts {
			fs.Int32(name, 0, usage)
		}
	}
	for _, f := range fixedFlags() {
		usage := fmt.Sprintf("only %q: %s", append([]string{f.usual}, f.others...), f.why)
		if f.usual == "false" {
			fs.Bool(f.name, false, usage)
		} else {
			fs.String(f.name, f.usual, usage)
		}
	}
}

// complete refuses what cannot be had.
func (c *compatible) complete() error {
	for _, f := range fixedFlags() {
		got := c.fs.Lookup(f.name).Value.String()
		if !strings.EqualFold(got, f.usual) && !slices.ContainsFunc(f.others, func(s string) bool { return strings.EqualFold(got, s) }) {
			return fmt.Errorf("--%s=%s cannot be had: %s", f.name, got, f.why)
		}
	}
	return nil
}

// tell logs which flags were given for nothing.
func (c *compatible) tell(log *slog.Logger) {
	for _, m := range mootFlags() {
		for _, name := range m.names() {
			if c.fs.Changed(name) {
				log.Warn("--"+name+" has no effect", "because", m.why)
			}
		}
	}
}

// logging is how a component that runs alone logs.
type logging struct {
	level, format string
	verbosity     int
}

func (l *logging) flags(fs *pflag.FlagSet) {
	fs.StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&l.format, "logging-format", "text", "text or json")
	fs.IntVarP(&l.verbosity, "v", "v", 0, "4 and above is --log-level=debug")
}

func (l *logging) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	if l.verbosity >= 4 {
		level = min(level, slog.LevelDebug)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	}
	return nil, fmt.Errorf("--logging-format=%s is neither text nor json", l.format)
}

// tlsFlags are what a component's HTTPS port speaks.
type tlsFlags struct {
	version string
	suites  []string
	noHTTP2 bool
}

func (t *tlsFlags) flags(fs *pflag.FlagSet) {
	fs.StringVar(&t.version, "tls-min-version", "VersionTLS12", "least version of TLS: VersionTLS12 or VersionTLS13")
	fs.StringSliceVar(&t.suites, "tls-cipher-suites", nil, "cipher suites of TLS 1.2 (default: Go's)")
	fs.BoolVar(&t.noHTTP2, "disable-http2-serving", false, "speak HTTP/1.1 only")
}

// config returns a configuration without certificates.
func (t *tlsFlags) config() (*tls.Config, error) {
	out := &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	if t.noHTTP2 {
		out.NextProtos = out.NextProtos[1:]
	}
	switch t.version {
	case "", "VersionTLS12":
		out.MinVersion = tls.VersionTLS12
	case "VersionTLS13":
		out.MinVersion = tls.VersionTLS13
	default:
		return nil, fmt.Errorf("--tls-min-version=%s is neither VersionTLS12 nor VersionTLS13", t.version)
	}
	for _, name := range t.suites {
		i := slices.IndexFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("--tls-cipher-suites: %q is none, or not safe", name)
		}
		out.CipherSuites = append(out.CipherSuites, tls.CipherSuites()[i].ID)
	}
	return out, nil
}

// within waits for done, but at most for d; it says whether it came.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
