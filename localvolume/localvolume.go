// Package localvolume is the local provisioner's part on a node: volumes of
// this node come in from a watch, a directory per volume is made and removed.
package localvolume

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api/localvolumes"
	"github.com/coxswain/cox/client"
)

// Config is what the node's part is made of.
type Config struct {
	// Volumes reads and updates PersistentVolumes.
	Volumes client.Interface
	// Node is the node's own identity: it reads its Node and notes in an
	// annotation where volumes are kept.
	Node     client.Interface
	NodeName string
	// Folder holds the volumes, an absolute path; it is made if absent.
	Folder string
	Log    *slog.Logger
}

// part is a running node's part.
type part struct {
	cfg     Config
	folder  *folder
	volumes client.Informer[*corev1.PersistentVolume]
	loop    *client.Loop
}

// Run makes and removes directories until ctx ends. The error is that of
// setting up, or ctx's.
func Run(ctx context.Context, cfg Config) error {
	cfg.Folder = filepath.Clean(cfg.Folder)
	if !filepath.IsAbs(cfg.Folder) {
		return fmt.Errorf("folder of local volumes: %s is not an absolute path", cfg.Folder)
	}
	f, err := openFolder(cfg.Folder)
	if err != nil {
		return err
	}
	defer f.close()
	volumes := client.NewInformers(cfg.Volumes)
	p := &part{cfg: cfg, folder: f, volumes: client.ScopedInformerFor(volumes, client.PersistentVolumes, client.Scope{
		Label: labels.SelectorFromSet(labels.Set{localvolumes.NodeLabel: cfg.NodeName}),
	})}
	p.loop = client.NewLoop("localvolume", cfg.Log, p.reconcile)
	if _, err := p.volumes.OnChange(func(v, _ *corev1.PersistentVolume) {
		if v != nil {
			p.loop.Add(v.Name)
		}
	}); err != nil {
		return err
	}
	nodes := client.NewInformers(cfg.Node)
	announce := client.NewLoop("localvolume-node", cfg.Log, p.announce)
	if _, err := client.ScopedInformerFor(nodes, client.Nodes, client.Scope{
		Field: fields.OneTermEqualSelector("metadata.name", cfg.NodeName),
	}).OnChange(func(n, _ *corev1.Node) {
		if n != nil && n.Annotations[localvolumes.FolderAnnotation] != cfg.Folder {
			announce.Add(n.Name)
		}
	}); err != nil {
		return err
	}
	volumes.Start(ctx)
	nodes.Start(ctx)
	done := make(chan struct{})
	go func() { defer close(done); announce.Run(ctx, 1) }()
	p.loop.Run(ctx, 1)
	<-done
	return ctx.Err()
}

// announce notes on the Node where its volumes are kept.
func (p *part) announce(ctx context.Context, name string) (time.Duration, error) {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{localvolumes.FolderAnnotation: p.cfg.Folder}}})
	if err != nil {
		return 0, err
	}
	_, err = client.Nodes.In(p.cfg.Node, "").Patch(ctx, name, types.MergePatchType, data)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

func (p *part) reconcile(ctx context.Context, name string) (time.Duration, error) {
	v, ok := p.volumes.Get("", name)
	if !ok {
		return 0, nil
	}
	switch plan(v, p.cfg.Folder, p.cfg.NodeName) {
	case create:
		if err := p.folder.create(name); err != nil {
			p.cfg.Log.Warn("a local volume's directory cannot be made", "volume", name, "error", err)
			return 0, err
		}
	case remove:
		if err := p.folder.remove(name); err != nil {
			p.cfg.Log.Warn("a local volume's directory cannot be removed", "volume", name, "error", err)
			return 0, err
		}
		return 0, p.release(ctx, v)
	case release:
		return 0, p.release(ctx, v)
	}
	return 0, nil
}

func (p *part) release(ctx context.Context, v *corev1.PersistentVolume) error {
	out := v.DeepCopy()
	out.Finalizers = slices.DeleteFunc(out.Finalizers, func(f string) bool { return f == localvolumes.Finalizer })
	_, err := client.PersistentVolumes.In(p.cfg.Volumes, "").Update(ctx, out)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("letting volume %s go: %w", v.Name, err)
	}
	return nil
}
