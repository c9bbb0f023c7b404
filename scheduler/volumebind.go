package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"

	"github.com/coxswain/cox/client"
)

// volumeWait is how long a pod may wait for its claims once it has a node, as
// upstream's bindTimeoutSeconds is.
const volumeWait = 10 * time.Minute

// byStorageClass indexes volumes by their class.
const byStorageClass = "class"

// volumeBinder is the scheduler's view of storage, from informers, and what
// writes its choices. taken is guarded by the scheduler's lock.
type volumeBinder struct {
	door    client.Interface
	claims  client.Informer[*corev1.PersistentVolumeClaim]
	volumes client.Informer[*corev1.PersistentVolume]
	classes client.Informer[*storagev1.StorageClass]
	taken   map[string]*corev1.PersistentVolume

	drivers  client.Informer[*storagev1.CSIDriver]
	csiNodes client.Informer[*storagev1.CSINode]
	capacity client.Informer[*storagev1.CSIStorageCapacity]
	snapshot *Snapshot // who uses claims; guarded by the scheduler's lock

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of a claim or volume
	waiting map[types.UID]context.CancelCauseFunc
}

// newVolumeBinder makes the view; happened is called after every change of
// what volume plugins read.
func newVolumeBinder(door client.Interface, informers *client.Informers, happened func()) (*volumeBinder, []cache.DoneChecker, error) {
	b := &volumeBinder{
		door:    door,
		claims:  client.InformerFor(informers, client.PersistentVolumeClaims),
		volumes: client.InformerFor(informers, client.PersistentVolumes),
		classes: client.InformerFor(informers, client.StorageClasses),
		drivers: client.InformerFor(informers, client.CSIDrivers), csiNodes: client.InformerFor(informers, client.CSINodes),
		capacity: client.InformerFor(informers, client.CSIStorageCapacities),
		taken:    map[string]*corev1.PersistentVolume{}, changed: make(chan struct{}),
		waiting: map[types.UID]context.CancelCauseFunc{},
	}
	if err := b.volumes.AddIndex(byStorageClass, func(v *corev1.PersistentVolume) []string {
		return []string{volume.GetPersistentVolumeClass(v)}
	}); err != nil {
		return nil, nil, err
	}
	claims, err := b.claims.OnChange(func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaim) {
		b.wake()
		happened()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch claims: %w", err)
	}
	volumes, err := b.volumes.OnChange(func(*corev1.PersistentVolume, *corev1.PersistentVolume) {
		b.wake()
		happened()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch volumes: %w", err)
	}
	classes, err := b.classes.OnChange(func(*storagev1.StorageClass, *storagev1.StorageClass) { happened() })
	if err != nil {
		return nil, nil, fmt.Errorf("watch storage classes: %w", err)
	}
	synced := []cache.DoneChecker{claims.HasSyncedChecker(), volumes.HasSyncedChecker(), classes.HasSyncedChecker()}
	if err := b.capacity.AddIndex(byStorageClass, func(c *storagev1.CSIStorageCapacity) []string { return []string{c.StorageClassName} }); err != nil {
		return nil, nil, err
	}
	drivers, err := b.drivers.OnChange(func(*storagev1.CSIDriver, *storagev1.CSIDriver) { happened() })
	if err != nil {
		return nil, nil, fmt.Errorf("watch CSI drivers: %w", err)
	}
	nodes, err := b.csiNodes.OnChange(func(*storagev1.CSINode, *storagev1.CSINode) { happened() })
	if err != nil {
		return nil, nil, fmt.Errorf("watch CSI nodes: %w", err)
	}
	capacity, err := b.capacity.OnChange(func(*storagev1.CSIStorageCapacity, *storagev1.CSIStorageCapacity) { happened() })
	if err != nil {
		return nil, nil, fmt.Errorf("watch storage capacities: %w", err)
	}
	return b, append(synced, drivers.HasSyncedChecker(), nodes.HasSyncedChecker(), capacity.HasSyncedChecker()), nil
}

// wake lets those that wait for claims look again.
func (b *volumeBinder) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *volumeBinder) claim(namespace, name string) *corev1.PersistentVolumeClaim {
	c, _ := b.claims.Get(namespace, name)
	return c
}

func (b *volumeBinder) volume(name string) *corev1.PersistentVolume {
	v, _ := b.volumes.Get("", name)
	return v
}

func (b *volumeBinder) candidates(class string) []*corev1.PersistentVolume {
	return b.volumes.ByIndex(byStorageClass, class)
}

func (b *volumeBinder) class(name string) *storagev1.StorageClass {
	c, _ := b.classes.Get("", name)
	return c
}

func (b *volumeBinder) driver(name string) *storagev1.CSIDriver {
	d, _ := b.drivers.Get("", name)
	return d
}

func (b *volumeBinder) csiNode(name string) *storagev1.CSINode {
	n, _ := b.csiNodes.Get("", name)
	return n
}

func (b *volumeBinder) capacities(class string) []*storagev1.CSIStorageCapacity {
	return b.capacity.ByIndex(byStorageClass, class)
}

func (b *volumeBinder) users(namespace, claim string) map[types.UID]string {
	return b.snapshot.claimUsers[namespace+"/"+claim]
}

func (b *volumeBinder) reserved() map[string]*corev1.PersistentVolume { return b.taken }

// reserve chooses volumes for a pod's waiting claims on its node and keeps
// them from other pods until release. The scheduler's lock is held.
func (b *volumeBinder) reserve(p *Pod, node *corev1.Node) ([]choice, error) {
	if len(p.claims) == 0 {
		return nil, nil
	}
	vols, why := volumesOf(b, p.Pod)
	if why != "" {
		return nil, errors.New(why)
	}
	choices, why := choose(b, vols.waiting, node)
	if why != "" {
		return nil, errors.New(why)
	}
	for _, c := range choices {
		if c.volume != nil {
			b.taken[c.volume.Name] = c.volume
		}
	}
	return choices, nil
}

// release ends the reservation. The scheduler's lock is held.
func (b *volumeBinder) release(choices []choice) {
	for _, c := range choices {
		if c.volume != nil {
			delete(b.taken, c.volume.Name)
		}
	}
}

// forget ends the wait for the claims of a pod that is gone.
func (b *volumeBinder) forget(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cancel := b.waiting[uid]; cancel != nil {
		cancel(errors.New("the pod is gone"))
	}
}

// bind writes the choices and waits until every claim of them is bound.
func (b *volumeBinder) bind(ctx context.Context, p *Pod, node string, choices []choice) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, volumeWait, errors.New("timed out waiting for the condition"))
	defer stop()
	b.mu.Lock()
	b.waiting[p.UID] = cancel
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.waiting, p.UID)
		b.mu.Unlock()
	}()
	wrote := map[string]*corev1.PersistentVolumeClaim{}
	for _, c := range choices {
		claim, err := b.write(ctx, c, node)
		if err != nil {
			return err
		}
		wrote[c.claim.Name] = claim
	}
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		left := maps.Clone(wrote)
		for name, claim := range wrote {
			done, err := b.arrived(claim, node)
			if err != nil {
				return err
			}
			if done {
				delete(left, name)
			}
		}
		if wrote = left; len(wrote) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write makes one choice known, to the binder by reserving the volume or to
// the provisioner by naming the node, and returns the claim as it then is.
func (b *volumeBinder) write(ctx context.Context, c choice, node string) (*corev1.PersistentVolumeClaim, error) {
	if c.volume != nil {
		v, changed, err := volume.GetBindVolumeToClaim(c.volume, c.claim)
		if err == nil && changed {
			_, err = client.PersistentVolumes.In(b.door, "").Update(ctx, v.DeepCopy())
		}
		if err != nil {
			return nil, fmt.Errorf("binding volume %q: %w", c.volume.Name, err)
		}
		return c.claim, nil
	}
	if c.claim.Annotations[volume.AnnSelectedNode] == node {
		return c.claim, nil
	}
	claim := c.claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, node)
	claim, err := client.PersistentVolumeClaims.In(b.door, claim.Namespace).Update(ctx, claim)
	if err != nil {
		return nil, fmt.Errorf("choosing a node for claim %q: %w", c.claim.Name, err)
	}
	return claim, nil
}

// arrived says that a claim is bound to a volume that can be used on the
// node. claim is how this scheduler saw or wrote it last.
func (b *volumeBinder) arrived(claim *corev1.PersistentVolumeClaim, node string) (bool, error) {
	cur := b.claim(claim.Namespace, claim.Name)
	if cur != nil && version(cur) < version(claim) {
		return false, nil // the informer has yet to see the write
	}
	switch {
	case cur == nil || cur.UID != claim.UID || cur.DeletionTimestamp != nil:
		return false, fmt.Errorf("claim %q is gone", claim.Name)
	case fullyBound(cur):
		return b.volume(cur.Spec.VolumeName) != nil, nil
	case claim.Annotations[volume.AnnSelectedNode] == node && cur.Annotations[volume.AnnSelectedNode] != node:
		// The provisioner could not serve this node and gives the choice back.
		return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
	}
	return false, nil
}

func version(o metav1.Object) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return n
}
