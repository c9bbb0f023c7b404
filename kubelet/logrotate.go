package kubelet

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rotateLogs bounds the logs of the running containers. It is part of the
// upkeep, since nothing tells when a file has grown.
func (k *Kubelet) rotateLogs(ctx context.Context) {
	k.mu.Lock()
	var logs []struct{ id, path string }
	for _, w := range k.workers {
		w.mu.Lock()
		for _, c := range w.containers {
			if c.running() && c.LogPath != "" {
				logs = append(logs, struct{ id, path string }{c.Id, c.LogPath})
			}
		}
		w.mu.Unlock()
	}
	k.mu.Unlock()
	for _, l := range logs {
		fi, err := os.Lstat(l.path)
		if err != nil || fi.Size() < k.cfg.Containers.LogSize {
			continue
		}
		err = rotateLog(l.path, k.cfg.Containers.LogFiles, k.cfg.Clock.Now(), func() error {
			_, err := k.cfg.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: l.id})
			return err
		})
		if err != nil {
			k.log.Warn("cannot rotate a container's log", "file", l.path, "error", err)
		}
	}
}

// rotateLog moves a log aside as <log>.<time> and has the runtime begin a new
// one. Of the older ones the newest stays plain, so that readers can finish
// it, the others are compressed; files keeps at most that many in all.
func rotateLog(path string, files int, now time.Time, reopen func() error) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // by their time
	for _, f := range old {
		if strings.HasSuffix(f, ".tmp") {
			os.Remove(f) // of a broken attempt
		}
	}
	old = slices.DeleteFunc(old, func(f string) bool { return strings.HasSuffix(f, ".tmp") })
	for len(old) > files-2 {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	for _, f := range old {
		if !strings.HasSuffix(f, ".gz") {
			if err := compress(f); err != nil {
				return fmt.Errorf("compress %s: %w", f, err)
			}
		}
	}
	aside := path + "." + now.UTC().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		// The runtime still writes into the old file: give it its name back.
		if back := os.Rename(aside, path); back != nil {
			return fmt.Errorf("%w (and the file kept its new name: %v)", err, back)
		}
		return err
	}
	return nil
}

// compress replaces a file by its gzip, all at once.
func compress(path string) (err error) {
	in, err := openRegular(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	for _, f := range []func() error{z.Close, out.Close} {
		if e := f(); err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
