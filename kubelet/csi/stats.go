package csi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// statsAge is how long what a driver said of a volume's use is good for;
// statsTimeout bounds the question.
const (
	statsAge     = time.Minute
	statsTimeout = 10 * time.Second
)

// Stats is how full a volume is. What is 0 the driver did not say.
type Stats struct {
	Time                                     time.Time
	Capacity, Available, Used                int64 // bytes
	Inodes, InodesFree, InodesUsed           int64
	HasBytes, HasInodes, HasHealth, Abnormal bool
	Message                                  string // of its condition
}

// heard is the last answer about each place; it is safe for concurrent use.
type heard struct {
	mu sync.Mutex
	by map[string]Stats
}

// Stats asks the driver of a pod's volume, by its name there, how full it is;
// not more often than every minute. False says that there is nothing to tell.
func (m *Manager) Stats(ctx context.Context, pod *corev1.Pod, name string) (Stats, bool) {
	id, p := m.published(pod.UID, name)
	if p == nil {
		return Stats{}, false
	}
	now := m.cfg.Clock.Now()
	m.stats.mu.Lock()
	have, ok := m.stats.by[p.path]
	m.stats.mu.Unlock()
	if ok && now.Sub(have.Time) < statsAge {
		return have, have.HasBytes || have.HasInodes || have.HasHealth
	}
	got, err := m.ask(ctx, id, p)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Log.Debug("a driver does not tell of a volume's use", "driver", id.driver, "pod", pod.Name, "volume", name, "error", err)
		}
		got = Stats{}
	}
	got.Time = now
	m.stats.mu.Lock()
	if m.stats.by == nil {
		m.stats.by = map[string]Stats{}
	}
	m.stats.by[p.path] = got
	m.stats.mu.Unlock()
	if got.Abnormal && !have.Abnormal {
		m.cfg.Events().Event(pod, corev1.EventTypeWarning, "VolumeConditionAbnormal", fmt.Sprintf("Volume %s: %s", name, got.Message))
	}
	return got, got.HasBytes || got.HasInodes || got.HasHealth
}

func (m *Manager) published(uid types.UID, name string) (volumeID, *published) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, vol := range m.volumes {
		if u := vol.pods[uid]; u != nil && u.published[name] != nil {
			return id, u.published[name]
		}
	}
	return volumeID{}, nil
}

func (m *Manager) ask(ctx context.Context, id volumeID, p *published) (Stats, error) {
	d, err := m.driver(id.driver)
	if err != nil {
		return Stats{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s, err := d.open()
	if err != nil {
		return Stats{}, err
	}
	defer s.close()
	can, err := s.abilities(ctx)
	if err != nil {
		return Stats{}, err
	}
	if !can[csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS] {
		if p.block {
			return Stats{}, errors.New("it does not have GET_VOLUME_STATS")
		}
		return fileSystem(p.path)
	}
	req := &csiapi.NodeGetVolumeStatsRequest{VolumeId: id.handle, VolumePath: p.path}
	if can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] && !p.block {
		req.StagingTargetPath = m.stage(id) + "/globalmount"
	}
	res, err := s.NodeGetVolumeStats(ctx, req)
	if err != nil {
		return Stats{}, err
	}
	return statsOf(res, can), nil
}

// mostMessage bounds what is kept of a driver's word on a volume, in bytes.
const mostMessage = 512

// statsOf is what a driver's answer says. What it says that cannot be, such as
// fewer than no bytes, it does not say.
func statsOf(res *csiapi.NodeGetVolumeStatsResponse, can abilities) Stats {
	var out Stats
	for _, u := range res.GetUsage() {
		total, free, used := max(u.GetTotal(), 0), max(u.GetAvailable(), 0), max(u.GetUsed(), 0)
		switch u.GetUnit() {
		case csiapi.VolumeUsage_BYTES:
			out.HasBytes, out.Capacity, out.Available, out.Used = true, total, free, used
		case csiapi.VolumeUsage_INODES:
			out.HasInodes, out.Inodes, out.InodesFree, out.InodesUsed = true, total, free, used
		}
	}
	if c := res.GetVolumeCondition(); c != nil && can[csiapi.NodeServiceCapability_RPC_VOLUME_CONDITION] {
		out.HasHealth, out.Abnormal, out.Message = true, c.Abnormal, c.Message
		if len(out.Message) > mostMessage {
			out.Message = strings.ToValidUTF8(out.Message[:mostMessage-3], "") + "..."
		}
	}
	return out
}

// fileSystem is what the kernel says of a volume whose driver says nothing.
func fileSystem(path string) (Stats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Stats{}, err
	}
	size := st.Bsize
	return Stats{
		HasBytes: true, Capacity: int64(st.Blocks) * size, Available: int64(st.Bavail) * size, Used: int64(st.Blocks-st.Bfree) * size,
		HasInodes: true, Inodes: int64(st.Files), InodesFree: int64(st.Ffree), InodesUsed: int64(st.Files - st.Ffree),
	}, nil
}
