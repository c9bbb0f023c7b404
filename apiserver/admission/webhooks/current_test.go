package webhooks

import (
	"fmt"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// A server that starts with stored configurations compiles them while the
// first writes ask: none of them may see less than all of them.
func TestCurrentWhileCompiling(t *testing.T) {
	const configs, askers = 50, 16
	m := &Manager{known: [2]map[types.UID]*compiled{{}, {}}}
	for sort := range m.lists {
		m.lists[sort] = cache.NewSharedIndexInformer(nil, &admissionv1.ValidatingWebhookConfiguration{}, 0, nil)
		for i := range configs {
			name := fmt.Sprint("c", i)
			if err := m.lists[sort].GetStore().Add(&admissionv1.ValidatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"},
				Webhooks:   []admissionv1.ValidatingWebhook{{Name: "a.b.c", MatchConditions: []admissionv1.MatchCondition{{Name: "m", Expression: "true"}}}},
			}); err != nil {
				t.Fatal(err)
			}
		}
		m.changes[sort].Add(1)
	}
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			if got := len(m.current(validating)); got != configs {
				t.Errorf("%d webhooks, want %d", got, configs)
			}
		})
	}
	wg.Wait()
}
