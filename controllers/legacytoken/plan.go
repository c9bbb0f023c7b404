// Package legacytoken cleans up after the time when every service account got
// a token in a Secret: those Secrets and what is known of their use in, marks
// and deletions out. A token that nobody used for the clean-up period is first
// marked as invalid, which its users notice and an administrator can take
// back, and deleted after a second period (KEP-2799).
package legacytoken

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Labels of the Secrets, with dates (YYYY-MM-DD, UTC) as values: when the token
// was last used, and since when it is not to be any more.
const (
	labelLastUsed = "kubernetes.io/legacy-token-last-used"
	labelInvalid  = "kubernetes.io/legacy-token-invalid-since"
)

// Plan is what is to be done about one Secret.
type Plan struct {
	Mark, Delete bool
	// Again is when to look again; 0 waits for a change.
	Again time.Duration
}

// Facts are what is known about a Secret and its surroundings.
type Facts struct {
	Secret *corev1.Secret
	// Account is the service account that the Secret is for; nil if it is gone
	// or another one of that name.
	Account *corev1.ServiceAccount
	// Mounted says that a pod has the Secret as a volume.
	Mounted bool
	// Since is from when on the use of tokens is noted; zero is unknown.
	Since time.Time
}

// Decide makes the plan. Only Secrets that were made for their account by the
// cluster itself, which the account therefore lists, are ever touched.
func Decide(f Facts, period time.Duration, now time.Time) Plan {
	if !Generated(f.Secret, f.Account) || f.Since.IsZero() {
		return Plan{}
	}
	// Looked at daily at most, since dates are all there is.
	later := func(t time.Time) Plan { return Plan{Again: max(t.Add(period).Sub(now), 24*time.Hour)} }
	if f.Mounted {
		return Plan{Again: 24 * time.Hour}
	}
	for _, from := range []time.Time{f.Since, f.Secret.CreationTimestamp.Time, day(f.Secret.Labels[labelLastUsed])} {
		if from.Add(period).After(now) {
			return later(from)
		}
	}
	invalid, marked := f.Secret.Labels[labelInvalid]
	if !marked || day(invalid).IsZero() {
		return Plan{Mark: true}
	}
	if since := day(invalid); since.Add(period).After(now) {
		return later(since)
	}
	return Plan{Delete: true}
}

// Generated says that the Secret holds a token that the cluster made of its
// own accord: its account lists it.
func Generated(s *corev1.Secret, account *corev1.ServiceAccount) bool {
	if s.Type != corev1.SecretTypeServiceAccountToken || account == nil || string(account.UID) != s.Annotations[corev1.ServiceAccountUIDKey] {
		return false
	}
	for _, ref := range account.Secrets {
		if ref.Name == s.Name {
			return true
		}
	}
	return false
}

// day reads a date; what is none is the zero time.
func day(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}
	}
	return t
}
