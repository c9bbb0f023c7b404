package main

import "github.com/prometheus/client_golang/prometheus"

// newLifetimes makes the metric of how long users' certificates are valid
// still, which alerts about those that nobody renews are made of.
func newLifetimes() prometheus.Histogram {
	const minute, hour, day = 60, 3600, 86400
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "apiserver", Subsystem: "client", Name: "certificate_expiration_seconds",
		Help: "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.",
		Buckets: []float64{0, 30 * minute, hour, 2 * hour, 6 * hour, 12 * hour, day, 2 * day, 4 * day, 7 * day,
			30 * day, 90 * day, 180 * day, 360 * day},
	})
}
