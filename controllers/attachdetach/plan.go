// Package attachdetach decides which volumes are attached to which nodes: pods
// with their claims and the nodes come in, VolumeAttachment objects for the
// drivers' external attachers and the nodes' volumesAttached go out.
package attachdetach

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forceAfter is how long a volume stays attached to a node that is not well
// and does not say that it has unmounted it (upstream's
// maxWaitForUnmountDuration).
const forceAfter = 6 * time.Minute

// annotationManaged is on nodes whose kubelets leave attaching to us.
const annotationManaged = "volumes.kubernetes.io/controller-managed-attach-detach"

// AttachmentName names the VolumeAttachment of a volume and a node; the node's
// kubelet computes it too.
func AttachmentName(pv *corev1.PersistentVolume, node string) string {
	s := pv.Spec.CSI
	sum := sha256.Sum256([]byte(s.VolumeHandle + s.Driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// ours says that an attachment is one that a controller of this kind has made,
// by the form of its name. What users and other controllers attach is theirs
// to detach.
func ours(va *storagev1.VolumeAttachment) bool {
	sum, ok := strings.CutPrefix(va.Name, "csi-")
	if !ok {
		return false
	}
	raw, err := hex.DecodeString(sum)
	return err == nil && len(raw) == sha256.Size
}

// uniqueName is a volume's name in a node's status.
func uniqueName(pv *corev1.PersistentVolume) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + pv.Spec.CSI.Driver + "^" + pv.Spec.CSI.VolumeHandle)
}

// want is a volume that pods of a node need attached to it.
type want struct {
	pv   *corev1.PersistentVolume
	pods []*corev1.Pod
}

// input is what is decided about one node from.
type input struct {
	name string
	node *corev1.Node // nil when it is gone
	// wants are by VolumeAttachment name.
	wants map[string]*want
	// attachments are those of the node.
	attachments []*storagev1.VolumeAttachment
	// volume returns a persistent volume, nil when it is gone; elsewhere the
	// attachments of a volume to other nodes, and users the pods there that
	// use it.
	volume    func(name string) *corev1.PersistentVolume
	elsewhere func(volume string) []*storagev1.VolumeAttachment
	users     func(pv *corev1.PersistentVolume) []*corev1.Pod
	// unwanted is since when attachments are in nobody's wants, by name.
	unwanted map[string]time.Time
	now      time.Time
	// patient: a volume in use is never taken from a node that is not well.
	patient bool
}

// note is an event about a pod.
type note struct {
	pod                     *corev1.Pod
	kind, reason, message   string
	attachment, volume, key string // key keeps it from being told twice
}

// plan is what to do about a node. The node's status comes before detaching:
// its kubelet begins nothing with a volume that is not in it.
type plan struct {
	attach []*storagev1.VolumeAttachment
	detach []*storagev1.VolumeAttachment
	// attached is the node's volumesAttached as it is to be; it is to be
	// written when changed.
	attached []corev1.AttachedVolume
	changed  bool
	notes    []note
	again    time.Duration // when to decide anew though nothing happens; 0 is never
}

// planNode decides about one node. It is a pure function.
func planNode(in input) plan {
	var p plan
	have := map[string]*storagev1.VolumeAttachment{}
	for _, va := range in.attachments {
		have[va.Name] = va
		if (in.wants[va.Name] == nil || in.node == nil) && ours(va) {
			p.release(&in, va)
		}
	}
	if in.node == nil {
		return p
	}
	for _, name := range sortedKeys(in.wants) {
		w := in.wants[name]
		va := have[name]
		switch {
		case va == nil:
			p.join(&in, name, w)
		case va.DeletionTimestamp != nil:
			// It is made anew once it is gone.
		case va.Status.Attached:
			p.attached = append(p.attached, corev1.AttachedVolume{Name: uniqueName(w.pv)})
			if !slices.ContainsFunc(in.node.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == uniqueName(w.pv) }) {
				p.tell(w, note{kind: corev1.EventTypeNormal, reason: "SuccessfulAttachVolume",
					message: fmt.Sprintf("AttachVolume.Attach succeeded for volume %q ", w.pv.Name)})
			}
		case va.Status.AttachError != nil:
			p.tell(w, note{kind: corev1.EventTypeWarning, reason: "FailedAttachVolume", attachment: name, key: va.Status.AttachError.Message,
				message: fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", w.pv.Name, va.Status.AttachError.Message)})
		}
	}
	slices.SortFunc(p.attached, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	was := slices.Clone(in.node.Status.VolumesAttached)
	slices.SortFunc(was, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	p.changed = !slices.Equal(p.attached, was)
	return p
}

// join attaches a volume unless it may be on one node only and is on another.
func (p *plan) join(in *input, name string, w *want) {
	if exclusive(w.pv) {
		if others := in.elsewhere(w.pv.Name); len(others) > 0 {
			p.tell(w, note{kind: corev1.EventTypeWarning, reason: "FailedAttachVolume", attachment: name, key: others[0].Spec.NodeName,
				message: fmt.Sprintf("Multi-Attach error for volume %q %s", w.pv.Name, multiAttach(w, in.users(w.pv)))})
			return
		}
	}
	source := w.pv.Name
	p.attach = append(p.attach, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: w.pv.Spec.CSI.Driver, NodeName: in.name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &source},
		},
	})
}

// multiAttach says who has the volume, as far as the pod's owner may know.
func multiAttach(w *want, users []*corev1.Pod) string {
	var names []string
	others := 0
	for _, u := range users {
		if u.Namespace == w.pods[0].Namespace {
			names = append(names, u.Name)
		} else {
			others++
		}
	}
	slices.Sort(names)
	switch {
	case len(names) > 0 && others > 0:
		return fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(names, ", "), others)
	case len(names) > 0:
		return "Volume is already used by pod(s) " + strings.Join(names, ", ")
	case others > 0:
		return fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", others)
	}
	return "Volume is already exclusively attached to one node and can't be attached to another"
}

// exclusive says that a volume may be attached to one node only.
func exclusive(pv *corev1.PersistentVolume) bool {
	return len(pv.Spec.AccessModes) > 0 && !slices.Contains(pv.Spec.AccessModes, corev1.ReadWriteMany) && !slices.Contains(pv.Spec.AccessModes, corev1.ReadOnlyMany)
}

// release detaches a volume that no pod of the node needs, once the node's
// kubelet does not use it any more.
func (p *plan) release(in *input, va *storagev1.VolumeAttachment) {
	if va.DeletionTimestamp != nil {
		return
	}
	if in.node == nil || outOfService(in.node) || !inUse(in, va) {
		p.detach = append(p.detach, va)
		return
	}
	left := forceAfter - in.now.Sub(in.unwanted[va.Name])
	switch {
	case in.patient:
	case left <= 0 && !ready(in.node):
		p.detach = append(p.detach, va)
		return
	case left > 0 && (p.again == 0 || left < p.again):
		p.again = left
	}
	if pv := in.pv(va); pv != nil && va.Status.Attached {
		p.attached = append(p.attached, corev1.AttachedVolume{Name: uniqueName(pv)})
	}
}

func (in *input) pv(va *storagev1.VolumeAttachment) *corev1.PersistentVolume {
	if name := va.Spec.Source.PersistentVolumeName; name != nil {
		if pv := in.volume(*name); pv != nil && pv.Spec.CSI != nil {
			return pv
		}
	}
	return nil
}

// inUse says that the node uses the volume of an attachment. Where its handle
// is not known any more any volume of the driver counts.
func inUse(in *input, va *storagev1.VolumeAttachment) bool {
	if pv := in.pv(va); pv != nil {
		return slices.Contains(in.node.Status.VolumesInUse, uniqueName(pv))
	}
	return slices.ContainsFunc(in.node.Status.VolumesInUse, func(n corev1.UniqueVolumeName) bool {
		return strings.HasPrefix(string(n), "kubernetes.io/csi/"+va.Spec.Attacher+"^")
	})
}

// outOfService says that an administrator vouches for the node being down
// (KEP-2268).
func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (p *plan) tell(w *want, n note) {
	for _, pod := range w.pods {
		n.pod, n.volume = pod, w.pv.Name
		p.notes = append(p.notes, n)
	}
}

// needs says that a pod keeps its volumes attached: it has a node, and not
// everything in it has ended.
func needs(pod *corev1.Pod) bool {
	switch {
	case pod.Spec.NodeName == "", pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return false
	case pod.DeletionTimestamp == nil:
		return true
	}
	statuses := slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses)
	return slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated == nil && s.State.Waiting == nil })
}

func sortedKeys(m map[string]*want) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
