package attachdetach

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var start = time.Unix(1e9, 0)

func disk(name string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: name},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h-" + name}},
	}}
}

func attachment(pv *corev1.PersistentVolume, node string, attached bool) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: AttachmentName(pv, node)},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv.Name}},
		Status:     storagev1.VolumeAttachmentStatus{Attached: attached},
	}
}

func user(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: "n"}}
}

func machine(ready bool, attached, inUse []*corev1.PersistentVolume) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	s := corev1.ConditionFalse
	if ready {
		s = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: s}}
	for _, pv := range attached {
		n.Status.VolumesAttached = append(n.Status.VolumesAttached, corev1.AttachedVolume{Name: uniqueName(pv)})
	}
	for _, pv := range inUse {
		n.Status.VolumesInUse = append(n.Status.VolumesInUse, uniqueName(pv))
	}
	return n
}

// tell puts a plan into words.
func tell(p plan) string {
	var out []string
	for _, va := range p.attach {
		out = append(out, "attach "+*va.Spec.Source.PersistentVolumeName)
	}
	for _, va := range p.detach {
		out = append(out, "detach "+*va.Spec.Source.PersistentVolumeName)
	}
	if p.changed {
		out = append(out, fmt.Sprintf("%d attached", len(p.attached)))
	}
	for _, n := range p.notes {
		out = append(out, n.reason+": "+n.message)
	}
	if p.again > 0 {
		out = append(out, "again in "+p.again.String())
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	v := disk("v")
	only := []*corev1.PersistentVolume{v}
	deleting := attachment(v, "n", true)
	deleting.DeletionTimestamp = &metav1.Time{Time: start}
	failed := attachment(v, "n", false)
	failed.Status.AttachError = &storagev1.VolumeError{Message: "no such disk"}
	tainted := machine(true, only, only)
	tainted.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	foreign := attachment(v, "n", true)
	foreign.Name = "by-hand"
	for name, c := range map[string]struct {
		node      *corev1.Node
		volume    *corev1.PersistentVolume
		wanted    bool
		here      *storagev1.VolumeAttachment
		elsewhere bool
		users     []*corev1.Pod
		unwanted  time.Duration
		patient   bool
		want      string
	}{
		"new":                       {node: machine(true, nil, nil), wanted: true, want: "attach v"},
		"being attached":            {node: machine(true, nil, nil), wanted: true, here: attachment(v, "n", false)},
		"attached":                  {node: machine(true, nil, nil), wanted: true, here: attachment(v, "n", true), want: `1 attached; SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "v" `},
		"known to be attached":      {node: machine(true, only, only), wanted: true, here: attachment(v, "n", true)},
		"failed":                    {node: machine(true, nil, nil), wanted: true, here: failed, want: `FailedAttachVolume: AttachVolume.Attach failed for volume "v" : no such disk`},
		"wanted while it goes":      {node: machine(true, only, nil), wanted: true, here: deleting, want: "0 attached"},
		"on another node":           {node: machine(true, nil, nil), wanted: true, elsewhere: true, want: `FailedAttachVolume: Multi-Attach error for volume "v" Volume is already exclusively attached to one node and can't be attached to another`},
		"on another node, in use":   {node: machine(true, nil, nil), wanted: true, elsewhere: true, users: []*corev1.Pod{user("b"), user("a")}, want: `FailedAttachVolume: Multi-Attach error for volume "v" Volume is already used by pod(s) a, b`},
		"shared":                    {node: machine(true, nil, nil), volume: disk("v", corev1.ReadWriteMany), wanted: true, elsewhere: true, want: "attach v"},
		"unwanted":                  {node: machine(true, only, nil), here: attachment(v, "n", true), want: "detach v; 0 attached"},
		"unwanted, still in use":    {node: machine(true, only, only), here: attachment(v, "n", true), want: "again in 6m0s"},
		"in use for long":           {node: machine(true, only, only), here: attachment(v, "n", true), unwanted: time.Hour},
		"in use on a node not well": {node: machine(false, only, only), here: attachment(v, "n", true), unwanted: time.Minute, want: "again in 5m0s"},
		"forced":                    {node: machine(false, only, only), here: attachment(v, "n", true), unwanted: forceAfter, want: "detach v; 0 attached"},
		"not forced":                {node: machine(false, only, only), here: attachment(v, "n", true), unwanted: forceAfter, patient: true},
		"out of service":            {node: tainted, here: attachment(v, "n", true), want: "detach v; 0 attached"},
		"node gone":                 {here: attachment(v, "n", true), want: "detach v"},
		"node gone, wanted":         {here: attachment(v, "n", true), wanted: true, want: "detach v"},
		"going":                     {node: machine(true, nil, nil), here: deleting},
		"attached by others":        {node: machine(true, nil, nil), here: foreign},
		"by others, node gone":      {here: foreign},
	} {
		pv := v
		if c.volume != nil {
			pv = c.volume
		}
		in := input{
			name: "n", node: c.node, wants: map[string]*want{}, now: start.Add(c.unwanted), patient: c.patient,
			volume: func(string) *corev1.PersistentVolume { return pv },
			elsewhere: func(string) []*storagev1.VolumeAttachment {
				if c.elsewhere {
					return []*storagev1.VolumeAttachment{attachment(pv, "other", true)}
				}
				return nil
			},
			users:    func(*corev1.PersistentVolume) []*corev1.Pod { return c.users },
			unwanted: map[string]time.Time{AttachmentName(pv, "n"): start},
		}
		if c.wanted {
			in.wants[AttachmentName(pv, "n")] = &want{pv: pv, pods: []*corev1.Pod{user("p")}}
		}
		if c.here != nil {
			in.attachments = []*storagev1.VolumeAttachment{c.here}
		}
		if got := tell(planNode(in)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestNeeds(t *testing.T) {
	running := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	over := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	going := func(s corev1.ContainerStatus) *corev1.Pod {
		p := user("p")
		p.DeletionTimestamp, p.Status.ContainerStatuses = &metav1.Time{Time: start}, []corev1.ContainerStatus{s}
		return p
	}
	done := user("p")
	done.Status.Phase = corev1.PodSucceeded
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"placed": {user("p"), true}, "not placed": {&corev1.Pod{}, false}, "finished": {done, false},
		"going, running": {going(running), true}, "going, over": {going(over), false},
	} {
		if got := needs(c.pod); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestSafety plays random histories of pods, kubelets, attachers and plans on
// two nodes: a volume for one node is never attached to two, is never detached
// while a well node's kubelet has it in use, and is where it is wanted in the
// end.
func TestSafety(t *testing.T) {
	for seed := range uint64(300) {
		w := &world{r: rand.New(rand.NewPCG(seed, 1)), pv: disk("v"), inUse: map[string]bool{}, wanted: map[string]bool{}, attached: map[string][]corev1.AttachedVolume{}, vas: map[string]*storagev1.VolumeAttachment{}}
		for step := range 200 {
			w.step()
			if err := w.check(); err != "" {
				t.Fatalf("seed %d, step %d: %s", seed, step, err)
			}
		}
		clear(w.wanted)
		w.wanted["a"] = true
		for range 400 {
			w.settle()
			if err := w.check(); err != "" {
				t.Fatalf("seed %d, at the end: %s", seed, err)
			}
		}
		if va := w.vas["a"]; va == nil || !va.Status.Attached || len(w.attached["a"]) != 1 || w.vas["b"] != nil {
			t.Fatalf("seed %d: the volume is not where it is wanted: %v", seed, w.vas)
		}
	}
}

type world struct {
	r        *rand.Rand
	pv       *corev1.PersistentVolume
	wanted   map[string]bool // by pods, by node
	inUse    map[string]bool // by kubelets
	attached map[string][]corev1.AttachedVolume
	vas      map[string]*storagev1.VolumeAttachment
	broken   string
}

func (w *world) step() {
	node := []string{"a", "b"}[w.r.IntN(2)]
	if w.r.IntN(4) == 0 {
		w.wanted[node] = !w.wanted[node]
		return
	}
	w.act(node, w.r.IntN(4))
}

func (w *world) settle() { w.act([]string{"a", "b"}[w.r.IntN(2)], w.r.IntN(4)) }

func (w *world) act(node string, what int) {
	va := w.vas[node]
	switch what {
	case 0: // the kubelet: reports the use, then mounts what the status shows
		w.inUse[node] = w.wanted[node]
	case 1: // the attacher attaches
		if va != nil && va.DeletionTimestamp == nil {
			now := *va
			now.Status.Attached = true
			w.vas[node] = &now
		}
	case 2: // or detaches
		if va != nil && va.DeletionTimestamp != nil {
			delete(w.vas, node)
		}
	case 3:
		w.plan(node)
	}
}

func (w *world) plan(node string) {
	n := machine(true, nil, nil)
	n.Status.VolumesAttached = w.attached[node]
	if w.inUse[node] {
		n.Status.VolumesInUse = []corev1.UniqueVolumeName{uniqueName(w.pv)}
	}
	in := input{
		name: node, node: n, wants: map[string]*want{}, now: start.Add(time.Hour), unwanted: map[string]time.Time{AttachmentName(w.pv, node): start},
		volume: func(string) *corev1.PersistentVolume { return w.pv },
		elsewhere: func(string) []*storagev1.VolumeAttachment {
			var out []*storagev1.VolumeAttachment
			for other, va := range w.vas {
				if other != node {
					out = append(out, va)
				}
			}
			return out
		},
		users: func(*corev1.PersistentVolume) []*corev1.Pod { return nil },
	}
	if w.wanted[node] {
		in.wants[AttachmentName(w.pv, node)] = &want{pv: w.pv, pods: []*corev1.Pod{user("p")}}
	}
	if va := w.vas[node]; va != nil {
		in.attachments = []*storagev1.VolumeAttachment{va}
	}
	p := planNode(in)
	w.attached[node] = p.attached
	for _, va := range p.detach {
		if w.inUse[node] {
			w.broken = "detached while in use on " + node
		}
		now := *va
		now.DeletionTimestamp = &metav1.Time{Time: start}
		w.vas[node] = &now
	}
	for _, va := range p.attach {
		w.vas[node] = va
	}
}

func (w *world) check() string {
	if len(w.vas) > 1 {
		return "attached to two nodes"
	}
	for node, list := range w.attached {
		if len(list) > 0 && (w.vas[node] == nil || !w.vas[node].Status.Attached) {
			return "a node is told of a volume that it does not have: " + node
		}
	}
	return w.broken
}

func TestNames(t *testing.T) {
	// As the sidecars and upstream's kubelet compute it: SHA-256 of handle,
	// driver and node.
	if got := AttachmentName(disk("v"), "n"); !strings.HasPrefix(got, "csi-") || len(got) != 68 {
		t.Error(got)
	}
	if got := uniqueName(disk("v")); got != "kubernetes.io/csi/d^h-v" {
		t.Error(got)
	}
	if !slices.Equal(sortedKeys(map[string]*want{"b": nil, "a": nil}), []string{"a", "b"}) {
		t.Error("not sorted")
	}
}
