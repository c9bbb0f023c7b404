package trustbundle

import (
	"testing"
)

func TestPlan(t *testing.T) {
	mine := wanted("one")
	if mine.Name != "kubernetes.io:kube-apiserver-serving:7692c3ad3540bb803c020b3a" {
		t.Errorf("named %s", mine.Name)
	}
	changed := wanted("one")
	changed.Spec.TrustBundle = "other"
	foreign := wanted("foreign")
	foreign.Name, foreign.Spec.SignerName = "example.com:s:x", "example.com/s"
	for name, c := range map[string]struct {
		have           []*bundle
		create, update bool
		gone           int
	}{
		"nothing there": {nil, true, false, 0},
		"there":         {[]*bundle{mine, foreign}, false, false, 0},
		"changed":       {[]*bundle{changed}, false, true, 0},
		"a former one":  {[]*bundle{wanted("two"), foreign}, true, false, 1},
		"both":          {[]*bundle{mine, wanted("two")}, false, false, 1},
	} {
		create, update, gone := plan("one", c.have)
		if (create != nil) != c.create || (update != nil) != c.update || len(gone) != c.gone {
			t.Errorf("%s: create %v, update %v, delete %v", name, create, update, gone)
		}
		if update != nil && update.Spec.TrustBundle != "one" {
			t.Errorf("%s: updated to %q", name, update.Spec.TrustBundle)
		}
		for _, b := range gone {
			if b.Spec.SignerName != signer || b.Name == mine.Name {
				t.Errorf("%s: deletes %s", name, b.Name)
			}
		}
	}
}
