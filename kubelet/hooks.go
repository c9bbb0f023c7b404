package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet/probes"
)

// hook runs a postStart or preStop hook (API documentation of
// LifecycleHandler) and waits for it. ctx bounds it.
func (k *Kubelet) hook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, ip string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out, code, err := k.execSync(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("command exited with %d: %s", code, out)
		}
		return nil
	case h.HTTPGet != nil:
		req, err := probes.HTTPRequest(ctx, h.HTTPGet, c, ip, "kube-lifecycle/"+k.cfg.Version)
		if err != nil {
			return err
		}
		res, err := k.hooks.Do(req)
		if errors.Is(err, http.ErrSchemeMismatch) {
			// The scheme of hooks had no effect before 1.27: who says HTTPS and
			// means HTTP is still served.
			req.URL.Scheme = "http"
			req.Header.Del("Authorization")
			if res, err = k.hooks.Do(req); err == nil {
				k.counts.httpFallbacks.Inc()
			}
		}
		if err != nil {
			return err
		}
		defer res.Body.Close()
		io.Copy(io.Discard, io.LimitReader(res.Body, 10<<10))
		if res.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("hook answered with status %d", res.StatusCode)
		}
		return nil
	case h.Sleep != nil:
		t := k.cfg.Clock.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C():
			return nil
		case <-ctx.Done():
			k.counts.sleepsCut.Inc()
			return ctx.Err()
		}
	case h.TCPSocket != nil:
		// Documented as not supported: it always succeeded without effect.
		return nil
	}
	return fmt.Errorf("the hook has no handler")
}

// execSync runs a command in a container; timeout 0 is none but ctx's.
func (k *Kubelet) execSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, int, error) {
	secs := int64((timeout + time.Second - 1) / time.Second)
	res, err := k.cfg.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: secs})
	if err != nil {
		return nil, 0, err
	}
	return probes.CombinedOutput(res.Stdout, res.Stderr), int(res.ExitCode), nil
}

// stopContainer ends a container: preStop hook within the grace period, then
// SIGTERM, and SIGKILL when the period is over (API documentation of
// Lifecycle).
func (k *Kubelet) stopContainer(ctx context.Context, pod *corev1.Pod, a killAction, ip string) error {
	c, kind := findContainer(&pod.Spec, a.Name)
	msg := a.Why.Message
	if msg == "" {
		msg = "Stopping container " + a.Name
	}
	k.containerEvent(pod, kind, a.Name, corev1.EventTypeNormal, "Killing", "%s", msg)
	begun := k.cfg.Clock.Now()
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && a.Grace > 0 {
		hctx, cancel := context.WithTimeout(ctx, a.Grace)
		if err := k.hook(hctx, pod, c, a.ID, ip, c.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			k.log.Info("preStop hook failed", "pod", podTitle(pod), "container", a.Name, "error", err)
			k.containerEvent(pod, kind, a.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
		cancel()
	}
	defer k.stopTurn(ctx)()
	grace := max(a.Grace-k.cfg.Clock.Since(begun), min(minGrace, a.Grace))
	_, err := k.cfg.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: a.ID, Timeout: int64((grace + time.Second - 1) / time.Second)})
	if isGone(err) {
		return nil
	}
	return err
}
