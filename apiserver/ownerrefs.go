package apiserver

import (
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Which owners are told twice is said of the request and, in these words, of
// what admission or a patch made of it.
const (
	ownersInRequest = ""
	ownersAdmitted  = " after mutating admission happens"
)

// singleOwners takes owners out that an object names twice, and warns of them.
func (t *transaction) singleOwners(m metav1.Object, when string) {
	refs := m.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var twice []string
next:
	for i := range refs {
		for j := range kept {
			if refs[i].UID == kept[j].UID && apiequality.Semantic.DeepEqual(refs[i], kept[j]) {
				twice = append(twice, string(refs[i].UID))
				continue next
			}
		}
		kept = append(kept, refs[i])
	}
	if len(twice) == 0 {
		return
	}
	m.SetOwnerReferences(kept)
	t.warns = append(t.warns, ".metadata.ownerReferences contains duplicate entries"+when+
		"; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "+strings.Join(twice, ", "))
}
