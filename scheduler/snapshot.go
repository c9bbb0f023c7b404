package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/coxswain/cox/api/podspec"
)

// Requests for scoring when a container asks for nothing, as upstream counts
// them: 0.1 core and 200 MB.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 * 1024 * 1024
)

// Amounts is a sum of resources in base units: millicores, bytes, pieces.
type Amounts struct {
	MilliCPU, Memory, Ephemeral int64
	Scalar                      map[corev1.ResourceName]int64
}

func amounts(list corev1.ResourceList) Amounts {
	var a Amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			a.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.Ephemeral = q.Value()
		case corev1.ResourcePods:
		default:
			if a.Scalar == nil {
				a.Scalar = map[corev1.ResourceName]int64{}
			}
			a.Scalar[name] = q.Value()
		}
	}
	return a
}

// add adds sign times b.
func (a *Amounts) add(b *Amounts, sign int64) {
	a.MilliCPU += sign * b.MilliCPU
	a.Memory += sign * b.Memory
	a.Ephemeral += sign * b.Ephemeral
	for name, v := range b.Scalar {
		if a.Scalar == nil {
			a.Scalar = map[corev1.ResourceName]int64{}
		}
		a.Scalar[name] += sign * v
	}
}

// hostPort is one port that a pod takes on its node.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// Pod is a pod with what scheduling computes from it once. Read only.
type Pod struct {
	*corev1.Pod
	request Amounts
	// scored is the request with the defaults for what is not asked for.
	scoredCPU, scoredMemory int64
	ports                   []hostPort
	// claims are the names of the claims behind the pod's volumes.
	claims []string
	// terms are its affinities to other pods; nil without any.
	terms *affinityTerms
	class string
	// spread names its spread constraints; nil until asked for.
	spread *string
}

// NewPod prepares a pod for scheduling. The object is kept, not changed.
func NewPod(obj *corev1.Pod) *Pod {
	p := &Pod{Pod: obj, claims: podspec.ClaimNames(obj), terms: affinityTermsOf(obj)}
	list := resourcehelper.PodRequests(obj, resourcehelper.PodResourcesOptions{})
	p.request = amounts(list)
	nonZero := resourcehelper.PodRequests(obj, resourcehelper.PodResourcesOptions{
		NonMissingContainerRequests: nonMissing,
	})
	p.scoredCPU, p.scoredMemory = nonZero.Cpu().MilliValue(), nonZero.Memory().Value()
	for _, list := range [][]corev1.Container{obj.Spec.Containers, restartable(obj.Spec.InitContainers)} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort <= 0 {
					continue
				}
				hp := hostPort{ip: port.HostIP, protocol: port.Protocol, port: port.HostPort}
				if hp.ip == "" {
					hp.ip = "0.0.0.0"
				}
				if hp.protocol == "" {
					hp.protocol = corev1.ProtocolTCP
				}
				p.ports = append(p.ports, hp)
			}
		}
	}
	return p
}

// restartable returns the sidecars among init containers.
func restartable(init []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range init {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// Node is a node with the pods on it. Only the snapshot's owner changes it;
// plugins read.
type Node struct {
	*corev1.Node
	// generation changes with everything that could change a decision; it is
	// unique over all nodes and times.
	generation uint64
	// index is the node's place in the snapshot.
	index       int
	allocatable Amounts
	maxPods     int64
	used        Amounts
	scoredCPU   int64
	scoredMem   int64
	pods        map[types.UID]*Pod
	ports       map[hostPort]int
	images      map[string]int64
}

// Snapshot is the state of all nodes in a dense array. It is not safe for
// concurrent use: the scheduler holds its lock around it.
type Snapshot struct {
	nodes      []*Node
	byName     map[string]int
	generation uint64
	// homeless are pods of nodes that are not known (yet).
	homeless map[string]map[types.UID]*Pod
	// where is the node name each pod is counted on.
	where map[types.UID]string
	// imageNodes counts the nodes that have an image; images changes with it
	// and with the number of nodes.
	imageNodes map[string]int
	images     uint64
	// storage changes with every claim, volume, storage class and the like, and
	// with every placed pod that has claims. claimUsers are the nodes of those
	// pods, by claim ("namespace/name").
	storage    uint64
	claimUsers map[string]map[types.UID]string
	// deviceClasses changes with every device class.
	deviceClasses uint64

	// related is what relations look up.
	related
}

// NewSnapshot returns an empty snapshot.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		byName: map[string]int{}, homeless: map[string]map[types.UID]*Pod{},
		where: map[types.UID]string{}, imageNodes: map[string]int{}, claimUsers: map[string]map[types.UID]string{}, related: newRelated(),
	}
}

// Len is the number of nodes.
func (s *Snapshot) Len() int { return len(s.nodes) }

func (s *Snapshot) touch(n *Node) {
	s.generation++
	n.generation = s.generation
}

// SetNode adds a node or replaces its object, and says what about it changed.
func (s *Snapshot) SetNode(obj *corev1.Node) Event {
	i, ok := s.byName[obj.Name]
	if !ok {
		n := &Node{pods: map[types.UID]*Pod{}, ports: map[hostPort]int{}, index: len(s.nodes)}
		s.spreads.survey++
		s.byName[obj.Name] = len(s.nodes)
		s.nodes = append(s.nodes, n)
		s.fill(n, obj)
		for _, p := range s.homeless[obj.Name] {
			n.add(p, 1)
			s.put(p, n)
		}
		delete(s.homeless, obj.Name)
		return NodeAdded
	}
	n := s.nodes[i]
	change := nodeChange(n.Node, obj)
	if change == 0 && sameImages(n.Node, obj) {
		n.Node = obj
		return 0
	}
	if change&(NodeLabels|NodeTaints) != 0 {
		s.spreads.survey++
	}
	s.fill(n, obj)
	return change
}

func (s *Snapshot) fill(n *Node, obj *corev1.Node) {
	for name := range n.images {
		s.imageNodes[name]--
		if s.imageNodes[name] == 0 {
			delete(s.imageNodes, name)
		}
	}
	s.images++
	n.Node = obj
	n.allocatable = amounts(obj.Status.Allocatable)
	n.maxPods = obj.Status.Allocatable.Pods().Value()
	n.images = map[string]int64{}
	for _, img := range obj.Status.Images {
		for _, name := range img.Names {
			n.images[name] = img.SizeBytes
			s.imageNodes[name]++
		}
	}
	s.touch(n)
}

// RemoveNode forgets a node; its pods are kept in case it comes back.
func (s *Snapshot) RemoveNode(name string) {
	i, ok := s.byName[name]
	if !ok {
		return
	}
	n := s.nodes[i]
	if len(n.pods) > 0 {
		s.homeless[name] = n.pods
		for _, p := range n.pods {
			s.related.drop(p)
		}
	}
	for img := range n.images {
		s.imageNodes[img]--
		if s.imageNodes[img] == 0 {
			delete(s.imageNodes, img)
		}
	}
	s.images++
	last := len(s.nodes) - 1
	s.spreads.survey++
	s.nodes[i] = s.nodes[last]
	s.nodes[i].index = i
	s.byName[s.nodes[i].Name] = i
	s.nodes = s.nodes[:last]
	delete(s.byName, name)
}

// SetPod counts a pod on its node (pod.Spec.NodeName, or node where the pod
// is only assumed there), replacing what was counted for its UID before.
func (s *Snapshot) SetPod(p *Pod, node string) {
	if old, ok := s.where[p.UID]; ok {
		s.uncount(p.UID, old)
	}
	s.where[p.UID] = node
	s.use(p, node)
	if i, ok := s.byName[node]; ok {
		s.nodes[i].add(p, 1)
		s.put(p, s.nodes[i])
		s.touch(s.nodes[i])
		return
	}
	if s.homeless[node] == nil {
		s.homeless[node] = map[types.UID]*Pod{}
	}
	s.homeless[node][p.UID] = p
}

// Renew takes a newer version of a pod's object in place of the one that is
// counted, if nothing that a decision depends on has changed; most versions of
// a pod on a node only bring a new status.
func (s *Snapshot) Renew(obj *corev1.Pod) bool {
	node, ok := s.where[obj.UID]
	i, known := s.byName[node]
	if !ok || !known || node != obj.Spec.NodeName {
		return false
	}
	n := s.nodes[i]
	old := n.pods[obj.UID]
	if old == nil || obj.Generation == 0 || old.Generation != obj.Generation || !maps.Equal(old.Labels, obj.Labels) ||
		(old.DeletionTimestamp == nil) != (obj.DeletionTimestamp == nil) {
		return false
	}
	p := *old // a binding under way may still read the old one
	p.Pod = obj
	n.pods[obj.UID] = &p
	s.swap(&p, n)
	return true
}

// RemovePod stops counting a pod; false when it was not counted.
func (s *Snapshot) RemovePod(uid types.UID) bool {
	node, ok := s.where[uid]
	if !ok {
		return false
	}
	delete(s.where, uid)
	s.uncount(uid, node)
	return true
}

func (s *Snapshot) uncount(uid types.UID, node string) {
	if i, ok := s.byName[node]; ok {
		n := s.nodes[i]
		if p, ok := n.pods[uid]; ok {
			n.add(p, -1)
			s.related.drop(p)
			s.touch(n)
			s.use(p, "")
		}
		return
	}
	if p := s.homeless[node][uid]; p != nil {
		s.use(p, "")
	}
	delete(s.homeless[node], uid)
	if len(s.homeless[node]) == 0 {
		delete(s.homeless, node)
	}
}

// use notes which claims a pod on a node uses; "" for no more.
func (s *Snapshot) use(p *Pod, node string) {
	for _, name := range p.claims {
		key := p.Namespace + "/" + name
		if node == "" {
			delete(s.claimUsers[key], p.UID)
			if len(s.claimUsers[key]) == 0 {
				delete(s.claimUsers, key)
			}
		} else {
			if s.claimUsers[key] == nil {
				s.claimUsers[key] = map[types.UID]string{}
			}
			s.claimUsers[key][p.UID] = node
		}
		s.storage++
	}
}

// add puts a pod on the node (sign 1) or takes it off (-1).
func (n *Node) add(p *Pod, sign int64) {
	n.used.add(&p.request, sign)
	n.scoredCPU += sign * p.scoredCPU
	n.scoredMem += sign * p.scoredMemory
	for _, hp := range p.ports {
		n.ports[hp] += int(sign)
		if n.ports[hp] == 0 {
			delete(n.ports, hp)
		}
	}
	if sign > 0 {
		n.pods[p.UID] = p
	} else {
		delete(n.pods, p.UID)
	}
}

// nodeChange says in which respects two versions of a node differ for
// scheduling.
func nodeChange(old, obj *corev1.Node) Event {
	var e Event
	if !sameQuantities(old.Status.Allocatable, obj.Status.Allocatable) {
		e |= NodeAllocatable
	}
	if !maps.Equal(old.Labels, obj.Labels) {
		e |= NodeLabels
	}
	if !sameTaints(old.Spec.Taints, obj.Spec.Taints) {
		e |= NodeTaints
	}
	if old.Spec.Unschedulable != obj.Spec.Unschedulable {
		e |= NodeUnschedulable
	}
	return e
}

func sameQuantities(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resourceQuantity) bool { return x.Cmp(y) == 0 })
}

func sameTaints(a, b []corev1.Taint) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || a[i].Value != b[i].Value || a[i].Effect != b[i].Effect {
			return false
		}
	}
	return true
}

func sameImages(old, obj *corev1.Node) bool {
	if len(old.Status.Images) != len(obj.Status.Images) {
		return false
	}
	for i := range old.Status.Images {
		a, b := old.Status.Images[i], obj.Status.Images[i]
		if a.SizeBytes != b.SizeBytes || len(a.Names) != len(b.Names) || len(a.Names) > 0 && a.Names[0] != b.Names[0] {
			return false
		}
	}
	return true
}

// controllerOf is the UID of the pod's controller, "" without one.
func controllerOf(obj *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOf(obj); ref != nil {
		return ref.UID
	}
	return ""
}
