package main

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// quiet sends what the client libraries log (klog) to our own log, where
// their chatter is debug output.
func quiet(log *slog.Logger) {
	klog.SetSlogLogger(log.With("component", "client-go"))
}
