package kubelet

import "time"

// Delays of the kubelet, as upstream's users know them.
const (
	crashDelayInitial = 10 * time.Second
	crashDelayMax     = 300 * time.Second
	crashDelayForget  = 10 * time.Minute

	pullDelayInitial = 10 * time.Second
	pullDelayMax     = 300 * time.Second
	// pullShown is how long a failed pull shows as ErrImagePull before it
	// shows as ImagePullBackOff.
	pullShown = 3 * time.Second

	retryInitial = time.Second
	retryMax     = 15 * time.Second

	// The next try to end a pod; the longer ones where a driver fails.
	endDelayInitial = 2 * time.Second
	endDelayMax     = 2 * time.Minute
)

// doubled returns the delay that follows d.
func doubled(d, initial, most time.Duration) time.Duration {
	if d == 0 {
		return initial
	}
	return min(2*d, most)
}

// crashed raises the restart back-off for a restart at now: 10 s, doubling up
// to 300 s, and anew when the last one is more than 10 minutes ago.
// most bounds both ends.
func (m *memory) crashed(now time.Time, most time.Duration) {
	if m.CrashDelay > 0 && now.Sub(m.CrashedAt) > crashDelayForget {
		m.CrashDelay = 0
	}
	m.CrashDelay = doubled(m.CrashDelay, min(crashDelayInitial, most), most)
	m.CrashedAt = now
}

// restartAt is when a container that ended at finished may start again.
func (m *memory) restartAt(finished time.Time) time.Time {
	if m.CrashDelay == 0 || finished.Sub(m.CrashedAt) > crashDelayForget {
		return finished
	}
	return finished.Add(m.CrashDelay)
}
