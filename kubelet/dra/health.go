package dra

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
)

// healthLasts is how long what a driver says of a device holds, unless it says
// so itself.
const healthLasts = 30 * time.Second

// Health is how a device is, as its driver says (KEP-4680). The zero value
// stands for unknown.
type Health struct {
	Status  corev1.ResourceHealthStatus
	Message string // at most corev1.ResourceHealthMessageMaxLength bytes
}

// mostSeconds is beyond what any driver means, and within what a Duration holds.
const mostSeconds = 1 << 32

// shortened keeps a message within its bound, and its last character whole.
func shortened(s string) string {
	if most := corev1.ResourceHealthMessageMaxLength; len(s) > most {
		return strings.ToValidUTF8(s[:most-3], "") + "..."
	}
	return s
}

// deviceID names a device of one driver.
type deviceID struct{ pool, device string }

// watchHealth follows what a driver says of its devices until ctx ends or the
// driver goes. Drivers need not have the service.
func (m *Manager) watchHealth(ctx context.Context, name string, d *driver) {
	stream, err := healthv1alpha1.NewDRAResourceHealthClient(d.conn).NodeWatchResources(ctx, &healthv1alpha1.NodeWatchResourcesRequest{}, grpc.WaitForReady(true))
	for err == nil {
		var list *healthv1alpha1.NodeWatchResourcesResponse
		if list, err = stream.Recv(); err == nil {
			m.healthListed(d, list.Devices)
		}
	}
	if ctx.Err() != nil {
		return
	}
	m.cfg.Log.Warn("a driver no longer tells how its devices are", "driver", name, "error", err)
	m.healthListed(d, nil)
}

// healthListed takes in a driver's whole list.
func (m *Manager) healthListed(d *driver, list []*healthv1alpha1.DeviceHealth) {
	now := m.cfg.Clock.Now()
	health := make(map[deviceID]Health, len(list))
	until := time.Time{}
	for _, e := range list {
		lasts := healthLasts
		if e.HealthCheckTimeoutSeconds > 0 {
			lasts = time.Duration(min(e.HealthCheckTimeoutSeconds, mostSeconds)) * time.Second
		}
		end := time.Unix(e.LastUpdatedTime, 0).Add(lasts)
		if !now.Before(end) {
			continue // too old to be believed
		}
		if until.IsZero() || end.Before(until) {
			until = end
		}
		h := Health{Message: shortened(e.Message)}
		switch e.Health {
		case healthv1alpha1.HealthStatus_HEALTHY:
			h.Status = corev1.ResourceHealthStatusHealthy
		case healthv1alpha1.HealthStatus_UNHEALTHY:
			h.Status = corev1.ResourceHealthStatusUnhealthy
		}
		health[deviceID{e.GetDevice().GetPoolName(), e.GetDevice().GetDeviceName()}] = h
	}
	m.mu.Lock()
	d.health = health
	if d.aging != nil {
		d.aging.Stop()
		d.aging = nil
	}
	if !until.IsZero() && m.drivers != nil {
		d.aging = m.cfg.Clock.AfterFunc(until.Sub(now), func() { m.healthListed(d, list) })
	}
	m.mu.Unlock()
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

// Health tells how a device is.
func (m *Manager) Health(driver, pool, device string) Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h Health
	if d := m.drivers[driver]; d != nil {
		h = d.health[deviceID{pool, device}]
	}
	if h.Status == "" {
		h.Status = corev1.ResourceHealthStatusUnknown
	}
	return h
}

// close lets a driver go. Call with the lock held.
func (d *driver) close() {
	d.cancel()
	d.conn.Close()
	if d.aging != nil {
		d.aging.Stop()
	}
}
