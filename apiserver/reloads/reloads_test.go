package reloads_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/apiserver/reloads"
)

// Upstream's names and labels, what is in force being the last only.
func TestMetrics(t *testing.T) {
	m := reloads.New("encryption", "me", func() time.Time { return time.Unix(7, 0) })
	m.InForce(sha256.Sum256([]byte("a")))
	m.Taken(sha256.Sum256([]byte("b")))
	m.Failed()
	m.Failed()
	reg := prometheus.NewRegistry()
	reg.MustRegister(m)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range all {
		for _, x := range f.GetMetric() {
			var labels []string
			for _, l := range x.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			got = append(got, fmt.Sprint(f.GetName(), " ", strings.Join(labels, " "), " ", x.GetCounter().GetValue()+x.GetGauge().GetValue()))
		}
	}
	const on, id = "apiserver_encryption_config_controller_", " apiserver_id_hash=sha256:2744ccd10c7533bd736ad890f9dd5cab2adb27b07d500b9493f29cdc420cb2e0 "
	want := []string{
		on + "automatic_reload_last_timestamp_seconds" + id + "status=failure 7",
		on + "automatic_reload_last_timestamp_seconds" + id + "status=success 7",
		on + "automatic_reloads_total" + id + "status=failure 2",
		on + "automatic_reloads_total" + id + "status=success 1",
		on + "last_config_info" + id + "hash=sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var none *reloads.Metrics // of a file that nobody counts
	none.InForce(sha256.Sum256(nil))
	none.Taken(sha256.Sum256(nil))
	none.Failed()
}
