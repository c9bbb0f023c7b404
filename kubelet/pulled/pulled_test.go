package pulled

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	clocktesting "k8s.io/utils/clock/testing"
)

const (
	image = "registry.io/team/app:1"
	ref   = "sha256:aaaa"
)

func records(t *testing.T, dir string, policy kubeletv1beta1.ImagePullCredentialsVerificationPolicy, allowed ...string) *Records {
	t.Helper()
	r, err := New(Config{Dir: dir, Policy: policy, Allowlist: allowed, Log: slog.New(slog.DiscardHandler), Clock: clocktesting.NewFakePassiveClock(time.Unix(1_700_000_000, 0))})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func secret(namespace, name, uid, password string) Credential {
	return Credential{Secret: &kubeletv1beta1.ImagePullSecret{Namespace: namespace, Name: name, UID: uid, CredentialHash: Hash("user", password)}}
}

func account(name, uid string) Credential {
	return Credential{Account: &kubeletv1beta1.ImagePullServiceAccount{Namespace: "a", Name: name, UID: uid}}
}

func has(list ...Credential) func() []Credential { return func() []Credential { return list } }

// pull notes a pull that served.
func pull(t *testing.T, r *Records, image, ref string, with Credential) {
	t.Helper()
	if err := r.Begin(image); err != nil {
		t.Fatal(err)
	}
	r.Pulled(image, ref, with)
}

// An image that was pulled with a secret.
func TestWhoMayUse(t *testing.T) {
	const other = kubeletv1beta1.NeverVerifyPreloadedImages
	mine := secret("a", "pull", "1", "x")
	for name, tc := range map[string]struct {
		policy kubeletv1beta1.ImagePullCredentialsVerificationPolicy
		with   Credential // it was pulled with
		image  string
		has    []Credential
		must   bool
	}{
		"the same secret":            {other, mine, image, []Credential{mine}, false},
		"its second secret":          {other, mine, image, []Credential{secret("a", "z", "9", "z"), mine}, false},
		"a secret that was changed":  {other, mine, image, []Credential{secret("a", "pull", "1", "y")}, false},
		"the same in another secret": {other, mine, image, []Credential{secret("b", "copy", "2", "x")}, false},
		"a secret made anew":         {other, mine, image, []Credential{secret("a", "pull", "2", "y")}, true},
		"another secret":             {other, mine, image, []Credential{secret("b", "own", "3", "z")}, true},
		"no secret":                  {other, mine, image, nil, true},
		"the node's credential":      {other, mine, image, []Credential{{}}, true},
		"another tag":                {other, mine, "registry.io/team/app@sha256:0123", []Credential{mine}, false},
		"another name of it":         {other, mine, "mirror.io/app:1", []Credential{mine}, true},
		"never verified":             {kubeletv1beta1.NeverVerify, mine, image, nil, false},
		"always verified":            {kubeletv1beta1.AlwaysVerify, mine, image, nil, true},
		"always, and it is mine":     {kubeletv1beta1.AlwaysVerify, mine, image, []Credential{mine}, false},
		"everybody's":                {kubeletv1beta1.AlwaysVerify, Credential{}, image, nil, false},
		"an account's":               {other, account("s", "5"), image, []Credential{account("s", "5")}, false},
		"an account made anew":       {other, account("s", "5"), image, []Credential{account("s", "6")}, true},
		"a secret for an account":    {other, account("s", "5"), image, []Credential{mine}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := records(t, dir, tc.policy)
			pull(t, r, image, ref, tc.with)
			for life, r := range map[string]*Records{"this process": r, "the next one": records(t, dir, tc.policy)} {
				if got := r.MustPull(tc.image, ref, has(tc.has...)); got != tc.must {
					t.Errorf("%s: must pull: %v, want %v", life, got, tc.must)
				}
			}
		})
	}
}

// An image that came by other ways than a pull.
func TestPreloaded(t *testing.T) {
	const only = kubeletv1beta1.NeverVerifyAllowlistedImages
	for name, tc := range map[string]struct {
		policy  kubeletv1beta1.ImagePullCredentialsVerificationPolicy
		allowed []string
		image   string
		must    bool
	}{
		"default":           {"", nil, image, false},
		"never":             {kubeletv1beta1.NeverVerify, nil, image, false},
		"always":            {kubeletv1beta1.AlwaysVerify, nil, image, true},
		"listed":            {only, []string{"registry.io/team/app"}, image, false},
		"not listed":        {only, []string{"registry.io/team/ap"}, image, true},
		"below":             {only, []string{"registry.io/*"}, image, false},
		"beside":            {only, []string{"registry.io/tea/*"}, image, true},
		"nothing listed":    {only, nil, image, true},
		"short name":        {only, []string{"docker.io/library/nginx"}, "nginx:1", false},
		"short name listed": {only, []string{"nginx"}, "nginx", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := records(t, t.TempDir(), tc.policy, tc.allowed...)
			if got := r.MustPull(tc.image, ref, has()); got != tc.must {
				t.Errorf("must pull: %v, want %v", got, tc.must)
			}
		})
	}
}

// Whoever pulls is remembered, until anybody can.
func TestOwnersAddUp(t *testing.T) {
	r := records(t, t.TempDir(), "")
	first, second := secret("a", "one", "1", "x"), secret("b", "two", "2", "y")
	pull(t, r, image, ref, first)
	if !r.MustPull(image, ref, has(second)) {
		t.Error("the second may use it before it has pulled")
	}
	pull(t, r, image, ref, second)
	for _, c := range []Credential{first, second} {
		if r.MustPull(image, ref, has(c)) {
			t.Errorf("%s/%s has pulled and may not use it", c.Secret.Namespace, c.Secret.Name)
		}
	}
	// A secret that holds the same is remembered by its name, and may change.
	r.MustPull(image, ref, has(secret("c", "copy", "3", "x")))
	if r.MustPull(image, ref, has(secret("c", "copy", "3", "new"))) {
		t.Error("the copy of the secret was not remembered")
	}
	pull(t, r, image, ref, Credential{})
	if r.MustPull(image, ref, has()) {
		t.Error("anybody can pull it and may not use it")
	}
	pull(t, r, image, ref, first)
	if r.MustPull(image, ref, has()) {
		t.Error("a later pull with a secret took it from everybody")
	}
	for i := range maxOwners + 3 {
		if err := r.add("registry.io/many:1", ref, secret("d", strconv.Itoa(i), strconv.Itoa(i), strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := r.read(ref)
	if err != nil || len(rec.CredentialMapping["registry.io/many"].KubernetesSecrets) != maxOwners {
		t.Errorf("%d owners are remembered, %v", len(rec.CredentialMapping["registry.io/many"].KubernetesSecrets), err)
	}
}

// While an image is being pulled, and if it is not known how that ended, it is
// nobody's.
func TestIntents(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "")
	for range 2 {
		if err := r.Begin(image); err != nil {
			t.Fatal(err)
		}
	}
	r.Failed(image)
	if !r.MustPull(image, ref, has()) {
		t.Error("one of two pulls goes on, and the image counts as preloaded")
	}
	if !records(t, dir, "").MustPull(image, ref, has()) {
		t.Error("the next process does not know of the pull")
	}
	r.Failed(image)
	if r.MustPull(image, ref, has()) {
		t.Error("no pull goes on, and the image does not count as preloaded")
	}
	pull(t, r, image, "", Credential{})
	if !r.MustPull(image, ref, has()) {
		t.Error("it was pulled, nobody knows how, and counts as preloaded")
	}
	pull(t, r, image, ref, Credential{})
	if left := files(r.intents()); len(left) != 0 || r.MustPull(image, ref, has()) {
		t.Errorf("after a pull that is known: intents %v", left)
	}
}

func TestSettle(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "")
	mine := secret("a", "pull", "1", "x")
	pull(t, r, "registry.io/kept:1", "sha256:kept", mine)
	pull(t, r, "registry.io/gone:1", "sha256:gone", mine)
	for _, i := range []string{"registry.io/there:1", "registry.io/missing:1", "registry.io/kept:1", "registry.io/unclear:1"} {
		if err := r.Begin(i); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(r.pulls(), filePrefix+digest("sha256:broken"))
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	r = records(t, dir, "")
	lost := errors.New("the runtime does not answer")
	err := r.Settle(t.Context(), func(_ context.Context, image string) (string, error) {
		switch image {
		case "registry.io/there:1":
			return "sha256:there", nil
		case "registry.io/kept:1":
			return "sha256:kept", nil
		case "registry.io/unclear:1":
			return "", lost
		}
		return "", nil
	}, func(context.Context) ([]string, error) {
		return []string{"sha256:kept", "sha256:there", "sha256:broken"}, nil
	})
	if !errors.Is(err, lost) {
		t.Errorf("settled with %v", err)
	}
	for _, tc := range []struct {
		image, ref string
		has        []Credential
		must       bool
	}{
		{"registry.io/there:1", "sha256:there", []Credential{mine}, true},
		{"registry.io/missing:1", "sha256:later", nil, false},
		{"registry.io/unclear:1", "sha256:unclear", nil, true},
		{"registry.io/kept:1", "sha256:kept", []Credential{mine}, false},
		{"registry.io/kept:1", "sha256:kept", nil, true},
		{"registry.io/gone:1", "sha256:gone", nil, false},
		{"registry.io/broken:1", "sha256:broken", nil, true},
	} {
		if got := r.MustPull(tc.image, tc.ref, has(tc.has...)); got != tc.must {
			t.Errorf("%s with %d secrets: must pull: %v, want %v", tc.image, len(tc.has), got, tc.must)
		}
	}
	r.Forget("sha256:kept")
	if left := files(r.pulls()); len(left) != 2 { // there, broken
		t.Errorf("records %v", left)
	}
}

// What is on disk is what upstream reads, with no secret in it.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "")
	pull(t, r, image, ref, secret("a", "pull", "1", "hush"))
	path := filepath.Join(dir, "pulled", "sha256-"+digest(ref))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2023-11-14T22:13:20Z","imageRef":"sha256:aaaa",` +
		`"credentialMapping":{"registry.io/team/app":{"kubernetesSecrets":[{"uid":"1","namespace":"a","name":"pull","credentialHash":"` + Hash("user", "hush") + `"}]}}}`
	if string(b) != want || strings.Contains(string(b), "hush") {
		t.Errorf("the record is\n%s, want\n%s", b, want)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v, %v", fi.Mode(), err)
	}
}

func TestCheckPattern(t *testing.T) {
	for pattern, good := range map[string]bool{
		"nginx": true, "registry.io/app": true, "registry.io:5000/app": true, "registry.io/*": true, "registry.io:5000/*": true, "registry.io/team/*": true,
		"": false, "/*": false, "*": false, "registry.io/a*": false, "registry.io/*/app": false, "nginx:1": false, "registry.io/app:1": false,
		"registry.io/app@sha256:0123": false, " nginx": false,
	} {
		if err := CheckPattern(pattern); (err == nil) != good {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
