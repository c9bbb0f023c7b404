package attachdetach

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 4

// Indexes: pods by the claims that they name, attachments by node and by
// volume.
const (
	byNode   = "attachdetach/node"
	byVolume = "attachdetach/volume"
)

// Controller attaches and detaches. Its keys are the names of nodes.
type Controller struct {
	env         controllers.Env
	patient     bool
	pods        client.Informer[*corev1.Pod]
	nodes       client.Informer[*corev1.Node]
	claims      client.Informer[*corev1.PersistentVolumeClaim]
	volumes     client.Informer[*corev1.PersistentVolume]
	attachments client.Informer[*storagev1.VolumeAttachment]
	drivers     client.Informer[*storagev1.CSIDriver]
	loop        *client.Loop
	writes      client.Writes // of attachments
	nodeWrites  client.Writes

	mu       sync.Mutex
	unwanted map[string]time.Time            // since when, by attachment
	told     map[string]map[types.UID]string // what pods were told last, by attachment
	// attaching are the nodes to which volumes are being attached, until the
	// informer shows it: no two nodes must both find a volume free.
	attaching map[string]string
}

// New makes the controller and registers its handlers. A patient one takes no
// volume in use from a node only because that has not been well for long: then
// a node must be marked out of service for its volumes to be used elsewhere.
func New(env controllers.Env, patient bool) (*Controller, error) {
	c := &Controller{
		env: env, patient: patient,
		pods:        client.InformerFor(env.Informers, client.Pods),
		nodes:       client.InformerFor(env.Informers, client.Nodes),
		claims:      client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		volumes:     client.InformerFor(env.Informers, client.PersistentVolumes),
		attachments: client.InformerFor(env.Informers, client.VolumeAttachments),
		drivers:     client.InformerFor(env.Informers, client.CSIDrivers),
		unwanted:    map[string]time.Time{}, told: map[string]map[types.UID]string{}, attaching: map[string]string{},
	}
	c.loop = env.NewLoop("attachdetach", c.reconcile)
	for _, err := range []error{
		c.pods.AddIndex(controllers.NodeIndex, controllers.ByNode),
		c.pods.AddIndex(controllers.ClaimIndex, controllers.ClaimKeys),
		c.attachments.AddIndex(byNode, func(va *storagev1.VolumeAttachment) []string { return []string{va.Spec.NodeName} }),
		c.attachments.AddIndex(byVolume, func(va *storagev1.VolumeAttachment) []string {
			if name := va.Spec.Source.PersistentVolumeName; name != nil {
				return []string{*name}
			}
			return nil
		}),
	} {
		if err != nil {
			return nil, err
		}
	}
	return c, c.watch()
}

func (c *Controller) watch() error {
	if _, err := c.pods.OnChange(func(pod, old *corev1.Pod) {
		if pod == nil {
			pod, old = old, nil
		}
		if pod.Spec.NodeName == "" || len(controllers.ClaimKeys(pod)) == 0 || old != nil && needs(old) == needs(pod) {
			return
		}
		c.loop.Add(pod.Spec.NodeName)
	}); err != nil {
		return err
	}
	if _, err := c.nodes.OnChange(func(node, old *corev1.Node) {
		switch {
		case node == nil:
			c.loop.Add(old.Name)
		case old == nil, ready(node) != ready(old), outOfService(node) != outOfService(old), managed(node) != managed(old),
			!slices.Equal(node.Status.VolumesInUse, old.Status.VolumesInUse),
			!slices.Equal(node.Status.VolumesAttached, old.Status.VolumesAttached):
			c.loop.Add(node.Name)
		}
	}); err != nil {
		return err
	}
	if _, err := c.claims.OnChange(func(claim, old *corev1.PersistentVolumeClaim) {
		if claim != nil && (old == nil || old.Spec.VolumeName != claim.Spec.VolumeName || old.Status.Phase != claim.Status.Phase) {
			c.wake(claim.Namespace, claim.Name)
		}
	}); err != nil {
		return err
	}
	if _, err := c.volumes.OnChange(func(v, old *corev1.PersistentVolume) {
		if v != nil && v.Spec.CSI != nil && v.Spec.ClaimRef != nil && (old == nil || !equality.Semantic.DeepEqual(old.Spec, v.Spec)) {
			c.wake(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
		}
	}); err != nil {
		return err
	}
	if _, err := c.attachments.OnChange(func(va, old *storagev1.VolumeAttachment) {
		if va != nil && old == nil {
			c.attached(va)
		}
		if va == nil {
			c.forget(old.Name)
			va = old
			// Another node may wait for the volume.
			if name := va.Spec.Source.PersistentVolumeName; name != nil {
				if v, ok := c.volumes.Get("", *name); ok && v.Spec.ClaimRef != nil {
					c.wake(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
				}
			}
		}
		c.loop.Add(va.Spec.NodeName)
	}); err != nil {
		return err
	}
	_, err := c.drivers.OnChange(func(d, old *storagev1.CSIDriver) {
		if d == nil || old != nil && equality.Semantic.DeepEqual(d.Spec.AttachRequired, old.Spec.AttachRequired) {
			return
		}
		for _, v := range c.volumes.List("", nil) {
			if v.Spec.CSI != nil && v.Spec.CSI.Driver == d.Name && v.Spec.ClaimRef != nil {
				c.wake(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
			}
		}
	})
	return err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

// wake looks at the nodes whose pods use a claim.
func (c *Controller) wake(namespace, name string) {
	for _, pod := range c.pods.ByIndex(controllers.ClaimIndex, namespace+"/"+name) {
		if pod.Spec.NodeName != "" {
			c.loop.Add(pod.Spec.NodeName)
		}
	}
}

func managed(n *corev1.Node) bool { _, ok := n.Annotations[annotationManaged]; return ok }

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	if !c.attachments.CaughtUp(&c.writes, name) || !c.nodes.CaughtUp(&c.nodeWrites, name) {
		return 0, nil // the event that is still to come wakes us
	}
	node, _ := c.nodes.Get("", name)
	if node != nil && !managed(node) {
		return 0, nil
	}
	in := input{
		name: name, node: node, wants: c.wants(name), attachments: c.attachments.ByIndex(byNode, name), now: c.env.Clock.Now(), patient: c.patient,
		volume: func(name string) *corev1.PersistentVolume { v, _ := c.volumes.Get("", name); return v },
		elsewhere: func(volume string) []*storagev1.VolumeAttachment {
			return slices.DeleteFunc(c.attachments.ByIndex(byVolume, volume), func(va *storagev1.VolumeAttachment) bool { return va.Spec.NodeName == name })
		},
		users: func(pv *corev1.PersistentVolume) []*corev1.Pod {
			ref := pv.Spec.ClaimRef
			return slices.DeleteFunc(c.pods.ByIndex(controllers.ClaimIndex, ref.Namespace+"/"+ref.Name), func(p *corev1.Pod) bool { return p.Spec.NodeName == name || !needs(p) })
		},
	}
	in.unwanted = c.since(in)
	p := planNode(in)
	if err := c.apply(ctx, name, node, &p); err != nil {
		return 0, err
	}
	return p.again, nil
}

// wants are the volumes that a node's pods need attached.
func (c *Controller) wants(node string) map[string]*want {
	out := map[string]*want{}
	for _, pod := range c.pods.ByIndex(controllers.NodeIndex, node) {
		if !needs(pod) {
			continue
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			name := podspec.ClaimName(pod, v)
			if name == "" {
				continue
			}
			claim, ok := c.claims.Get(pod.Namespace, name)
			if !ok || claim.Status.Phase != corev1.ClaimBound || v.Ephemeral != nil && ephemeral.VolumeIsForPod(pod, claim) != nil {
				continue
			}
			pv, ok := c.volumes.Get("", claim.Spec.VolumeName)
			if !ok || pv.Spec.CSI == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID || !c.attachable(pv.Spec.CSI.Driver) {
				continue
			}
			key := AttachmentName(pv, node)
			if out[key] == nil {
				out[key] = &want{pv: pv}
			}
			if !slices.Contains(out[key].pods, pod) {
				out[key].pods = append(out[key].pods, pod)
			}
		}
	}
	return out
}

// attachable says that a driver's volumes are attached at all; one that says
// nothing is believed to want it (API documentation of CSIDriver).
func (c *Controller) attachable(driver string) bool {
	d, ok := c.drivers.Get("", driver)
	return !ok || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}

// since notes since when attachments are unwanted.
func (c *Controller) since(in input) map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]time.Time{}
	for _, va := range in.attachments {
		if in.wants[va.Name] != nil {
			delete(c.unwanted, va.Name)
			continue
		}
		if _, ok := c.unwanted[va.Name]; !ok {
			c.unwanted[va.Name] = in.now
		}
		out[va.Name] = c.unwanted[va.Name]
	}
	return out
}

func (c *Controller) forget(attachment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unwanted, attachment)
	delete(c.told, attachment)
}

func (c *Controller) apply(ctx context.Context, name string, node *corev1.Node, p *plan) error {
	if p.changed {
		out := node.DeepCopy()
		out.Status.VolumesAttached = p.attached
		// Its resourceVersion guards against a kubelet that has just reported
		// the volume in use.
		got, err := client.Nodes.In(c.env.Client, "").UpdateStatus(ctx, out)
		if err != nil {
			return fmt.Errorf("update the volumes of node %s: %w", name, err)
		}
		c.nodeWrites.Wrote(name, got)
	}
	res := client.VolumeAttachments.In(c.env.Client, "")
	for _, va := range p.detach {
		c.writes.Deleted(name, va)
		err := res.Delete(ctx, va.Name, client.Options{})
		if err != nil {
			c.writes.Undelete(name, va)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("detach by %s: %w", va.Name, err)
		}
	}
	for _, va := range p.attach {
		if other := c.begin(va); other != "" {
			return fmt.Errorf("attach by %s: the volume is just being attached to node %s", va.Name, other)
		}
		got, err := res.Create(ctx, va)
		if err != nil {
			c.attached(va)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("attach by %s: %w", va.Name, err)
		}
		if err == nil {
			c.writes.Wrote(name, got)
		}
	}
	for _, n := range p.notes {
		if c.fresh(n) {
			c.env.Events.Event(n.pod, n.kind, n.reason, n.message)
		}
	}
	return nil
}

// begin notes that a volume for one node is being attached; where it is being attached to
// another node it returns that.
func (c *Controller) begin(va *storagev1.VolumeAttachment) (other string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	volume := *va.Spec.Source.PersistentVolumeName
	if pv, ok := c.volumes.Get("", volume); ok && !exclusive(pv) {
		return ""
	}
	if node := c.attaching[volume]; node != "" && node != va.Spec.NodeName {
		return node
	}
	c.attaching[volume] = va.Spec.NodeName
	return ""
}

// attached is called when the informer shows an attachment, or when it was not
// made.
func (c *Controller) attached(va *storagev1.VolumeAttachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name := va.Spec.Source.PersistentVolumeName; name != nil && c.attaching[*name] == va.Spec.NodeName {
		delete(c.attaching, *name)
	}
}

// fresh says that a pod was not told this last.
func (c *Controller) fresh(n note) bool {
	if n.key == "" {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told[n.attachment] == nil {
		c.told[n.attachment] = map[types.UID]string{}
	}
	if c.told[n.attachment][n.pod.UID] == n.key {
		return false
	}
	c.told[n.attachment][n.pod.UID] = n.key
	return true
}
