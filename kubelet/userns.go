package kubelet

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/atomicfile"
)

// idsPerPod is the default length of the range of user and group ids that a pod with
// a user namespace of its own gets on the host (KEP-127).
const idsPerPod = 65536

// userRanges gives each pod that wants one a range of the host's ids which no
// other pod has. What was given is kept in the pod's folder. It is safe for
// concurrent use.
type userRanges struct {
	dir func(types.UID) string
	// size is the length of a range, most how many there are, from size
	// upwards.
	size, most uint32

	mu    sync.Mutex
	first map[types.UID]uint32
}

// idRange is what the pod's folder keeps.
type idRange struct {
	First  uint32 `json:"first"`
	Length uint32 `json:"length"`
}

// recall takes up what the pods of a node were given before.
func (u *userRanges) recall(uids []types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, uid := range uids {
		r := idRange{}
		if b, err := os.ReadFile(u.file(uid)); err == nil && json.Unmarshal(b, &r) == nil && r.First >= idsPerPod {
			u.first[uid] = r.First
		}
	}
}

func (u *userRanges) file(uid types.UID) string { return filepath.Join(u.dir(uid), "userns.json") }

// of returns the first id of a pod's range, which it gives at first use.
func (u *userRanges) of(uid types.UID) (uint32, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n, ok := u.first[uid]; ok {
		return n, nil
	}
	taken := map[uint32]bool{}
	for _, n := range u.first {
		taken[n] = true
	}
	for i := uint32(1); i <= u.most; i++ {
		n := i * u.size
		if taken[n] {
			continue
		}
		b, err := json.Marshal(idRange{n, u.size})
		if err != nil {
			return 0, err
		}
		if err := os.MkdirAll(u.dir(uid), 0o750); err != nil {
			return 0, err
		}
		if err := atomicfile.Write(u.file(uid), b, 0o600); err != nil {
			return 0, err
		}
		u.first[uid] = n
		return n, nil
	}
	return 0, errors.New("no range of user ids is left for a further pod with a user namespace")
}

// release takes a range back once its pod is gone.
func (u *userRanges) release(uid types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.first, uid)
}

// ownUsers says that the pod wants a user namespace of its own.
func ownUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// userNamespace is a pod's user namespace; nil for the host's.
func (k *Kubelet) userNamespace(pod *corev1.Pod) (*runtimeapi.UserNamespace, error) {
	if !ownUsers(pod) {
		return nil, nil
	}
	first, err := k.users.of(pod.UID)
	if err != nil {
		return nil, err
	}
	m := []*runtimeapi.IDMapping{{HostId: first, ContainerId: 0, Length: k.users.size}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}, nil
}
