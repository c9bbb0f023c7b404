package metricsapi

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	for line, want := range map[string]string{
		`up 1`:   "up map[] 1 -",
		`up{} 1`: "up map[] 1 -",
		`cpu{pod="p",container="c\"\\\n"} 2.5e3 7`: `cpu map[container:c"\` + "\n pod:p] 2500 7",
		`cpu{pod="a b", } 1`:                       "cpu map[pod:a b] 1 -",
		"cpu\t3":                                   "cpu map[] 3 -",
		`cpu`:                                      "refused",
		`cpu{pod="p} 1`:                            "refused",
		`cpu{pod=p} 1`:                             "refused",
		`cpu one`:                                  "refused",
		`cpu 1 2 3`:                                "refused",
		`cpu 1 now`:                                "refused",
		`{a="b"} 1`:                                "refused",
	} {
		s, err := parse(line)
		at := "-"
		if s.at != (time.Time{}) {
			at = fmt.Sprint(s.at.UnixMilli())
		}
		got := fmt.Sprint(s.name, " ", s.labels, " ", s.value, " ", at)
		if err != nil {
			got = "refused"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("# HELP a b\na{b=\"c\"} 1 2\n\nd 3\n")
	f.Fuzz(func(t *testing.T, in string) {
		_ = samples(strings.NewReader(in), func(s sample) {
			if s.name == "" {
				t.Errorf("a sample without a name of %q", in)
			}
		})
	})
}
