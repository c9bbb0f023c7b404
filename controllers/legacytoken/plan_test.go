package legacytoken

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	const period = 365 * 24 * time.Hour
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	ago := func(days int) time.Time { return now.AddDate(0, 0, -days) }
	label := func(days int) string { return ago(days).Format(time.DateOnly) }
	for name, c := range map[string]struct {
		since          int // days ago; 0 is unknown
		born           int
		used, invalid  string
		manual         bool
		otherUID, gone bool
		mounted        bool
		want           Plan
	}{
		"never used":                  {since: 800, born: 900, want: Plan{Mark: true}},
		"used long ago":               {since: 800, born: 900, used: label(400), want: Plan{Mark: true}},
		"used lately":                 {since: 800, born: 900, used: label(10), want: Plan{Again: 354*24*time.Hour + 12*time.Hour}},
		"young":                       {since: 800, born: 300, want: Plan{Again: 65 * 24 * time.Hour}},
		"noted too shortly":           {since: 364, born: 900, want: Plan{Again: 24 * time.Hour}},
		"nothing noted":               {born: 900},
		"made by a user":              {since: 800, born: 900, manual: true},
		"account made anew":           {since: 800, born: 900, otherUID: true},
		"account gone":                {since: 800, born: 900, gone: true},
		"mounted":                     {since: 800, born: 900, mounted: true, want: Plan{Again: 24 * time.Hour}},
		"marked lately":               {since: 800, born: 900, invalid: label(100), want: Plan{Again: 264*24*time.Hour + 12*time.Hour}},
		"marked long ago":             {since: 800, born: 900, invalid: label(366), want: Plan{Delete: true}},
		"marked long ago, used since": {since: 800, born: 900, invalid: label(366), used: label(366), want: Plan{Delete: true}},
		"marked with nonsense":        {since: 800, born: 900, invalid: "yes", want: Plan{Mark: true}},
	} {
		s := &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken}
		s.Name, s.CreationTimestamp, s.Labels = "a-token", metav1.NewTime(ago(c.born)), map[string]string{}
		s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "a", corev1.ServiceAccountUIDKey: "u"}
		if c.used != "" {
			s.Labels[labelLastUsed] = c.used
		}
		if c.invalid != "" {
			s.Labels[labelInvalid] = c.invalid
		}
		a := &corev1.ServiceAccount{}
		a.UID = "u"
		if c.otherUID {
			a.UID = "v"
		}
		if !c.manual {
			a.Secrets = []corev1.ObjectReference{{Name: "a-token"}}
		}
		if c.gone {
			a = nil
		}
		f := Facts{Secret: s, Account: a, Mounted: c.mounted}
		if c.since > 0 {
			f.Since = ago(c.since)
		}
		if got := Decide(f, period, now); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
