// Package pulled remembers with which credentials images came onto the node,
// so that a pod uses an image that is present only if it could have pulled it
// itself (KEP-2535): what is pulled and by whom flows in, whether a pod must
// pull an image that is there already flows out. The records are on disk in
// upstream's format (ImagePullIntent and ImagePulledRecord of
// kubelet.config.k8s.io/v1beta1), so that a restart forgets none.
package pulled

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/internal/atomicfile"
)

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	intentKind = "ImagePullIntent"
	recordKind = "ImagePulledRecord"
	filePrefix = "sha256-"
	// maxOwners bounds the secrets, and the accounts, that are remembered of
	// an image: whoever is forgotten has to pull again.
	maxOwners = 100
)

// Config is what Records need.
type Config struct {
	// Dir is the folder of the records; it is made if it is missing.
	Dir string
	// Policy says which images are exempt; "" stands for
	// NeverVerifyPreloadedImages. Allowlist are the names, without tag and
	// digest, that NeverVerifyAllowlistedImages exempts; "/*" at the end
	// stands for all below.
	Policy    kubeletv1beta1.ImagePullCredentialsVerificationPolicy
	Allowlist []string
	Log       *slog.Logger
	Clock     clock.PassiveClock
}

// Credential is whose credential an image was pulled with, or can be. With
// neither it is the node's own, or none was needed.
type Credential struct {
	Secret  *kubeletv1beta1.ImagePullSecret
	Account *kubeletv1beta1.ImagePullServiceAccount
}

// Hash is a credential's in the records.
func Hash(parts ...string) string {
	return digest(fmt.Sprintf("%q", parts))
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Records are those of one node. They are safe for concurrent use.
type Records struct {
	cfg     Config
	mu      sync.Mutex
	pulling map[string]int // images that this process pulls, how often each
}

// New makes the folders.
func New(cfg Config) (*Records, error) {
	if cfg.Policy == "" {
		cfg.Policy = kubeletv1beta1.NeverVerifyPreloadedImages
	}
	r := &Records{cfg: cfg, pulling: map[string]int{}}
	for _, dir := range []string{r.intents(), r.pulls()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("records of pulled images: %w", err)
		}
	}
	return r, nil
}

func (r *Records) intents() string { return filepath.Join(r.cfg.Dir, "pulling") }
func (r *Records) pulls() string   { return filepath.Join(r.cfg.Dir, "pulled") }

func (r *Records) intent(image string) string {
	return filepath.Join(r.intents(), filePrefix+digest(image))
}
func (r *Records) record(ref string) string { return filepath.Join(r.pulls(), filePrefix+digest(ref)) }

// Begin notes that an image, named as the pod names it, is about to be pulled.
// Unless it fails, Failed or Pulled must follow.
func (r *Records) Begin(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling[image] == 0 {
		err := write(r.intent(image), &kubeletv1beta1.ImagePullIntent{TypeMeta: metav1.TypeMeta{Kind: intentKind, APIVersion: apiVersion}, Image: image})
		if err != nil {
			return fmt.Errorf("failed to record image pull intent for image %q: %w", image, err)
		}
	}
	r.pulling[image]++
	return nil
}

// Failed ends what Begin began: the image was not pulled.
func (r *Records) Failed(image string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(image)
}

// end forgets an intent with the last pull of its image. Call with the lock
// held.
func (r *Records) end(image string) {
	if r.pulling[image]--; r.pulling[image] > 0 {
		return
	}
	delete(r.pulling, image)
	if err := remove(r.intent(image)); err != nil {
		r.cfg.Log.Warn("cannot forget that an image was to be pulled", "image", image, "error", err)
	}
}

// Pulled ends what Begin began: the image is there, ref is the runtime's name
// of it, and with is the credential that served. ref may be "" if that could
// not be found out. What cannot be remembered is asked for again.
func (r *Records) Pulled(image, ref string, with Credential) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := errors.New("the runtime does not tell which image it is")
	if ref != "" {
		err = r.add(image, ref, with)
	}
	if err == nil {
		r.end(image)
		return
	}
	// The intent stays on disk: it is known that we pulled it, not with what.
	r.cfg.Log.Warn("cannot remember with which credentials an image was pulled", "image", image, "error", err)
	if r.pulling[image]--; r.pulling[image] <= 0 {
		delete(r.pulling, image)
	}
}

// add enters a credential into an image's record. Call with the lock held.
func (r *Records) add(image, ref string, with Credential) error {
	rec, err := r.read(ref)
	if err != nil {
		rec = nil // what it says is lost either way
	}
	if rec == nil {
		rec = &kubeletv1beta1.ImagePulledRecord{ImageRef: ref}
	}
	if rec.CredentialMapping == nil {
		rec.CredentialMapping = map[string]kubeletv1beta1.ImagePullCredentials{}
	}
	known, there := rec.CredentialMapping[repository(image)]
	if !enter(&known, with) && there {
		return nil
	}
	rec.CredentialMapping[repository(image)] = known
	return r.save(rec)
}

func (r *Records) save(rec *kubeletv1beta1.ImagePulledRecord) error {
	rec.TypeMeta = metav1.TypeMeta{Kind: recordKind, APIVersion: apiVersion}
	rec.LastUpdatedTime = metav1.NewTime(r.cfg.Clock.Now())
	return write(r.record(rec.ImageRef), rec)
}

// enter adds a credential to those known and says whether that changed them.
func enter(known *kubeletv1beta1.ImagePullCredentials, with Credential) bool {
	switch {
	case known.NodePodsAccessible:
		return false
	case with.Secret != nil:
		s := *with.Secret
		if slices.Contains(known.KubernetesSecrets, s) {
			return false
		}
		known.KubernetesSecrets = newest(slices.DeleteFunc(known.KubernetesSecrets, func(k kubeletv1beta1.ImagePullSecret) bool { return sameSecret(&k, &s) }), s)
	case with.Account != nil:
		if slices.Contains(known.KubernetesServiceAccounts, *with.Account) {
			return false
		}
		known.KubernetesServiceAccounts = newest(known.KubernetesServiceAccounts, *with.Account)
	default:
		*known = kubeletv1beta1.ImagePullCredentials{NodePodsAccessible: true}
	}
	return true
}

// newest appends to a list that forgets its oldest.
func newest[T any](list []T, one T) []T {
	list = append(list, one)
	return list[max(0, len(list)-maxOwners):]
}

func sameSecret(a, b *kubeletv1beta1.ImagePullSecret) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name
}

// MustPull says whether a pod that asks for an image, present as ref, has to
// show that it can be pulled. have is asked, if need be, for the credentials
// that the pod has for it.
func (r *Records) MustPull(image, ref string, have func() []Credential) bool {
	if r.cfg.Policy == kubeletv1beta1.NeverVerify {
		return false
	}
	r.mu.Lock()
	rec, err := r.read(ref)
	ours := rec != nil || err != nil || r.intended(image)
	r.mu.Unlock()
	if err != nil {
		r.cfg.Log.Warn("the record of an image's credentials cannot be read", "image", image, "error", err)
	}
	if !ours && r.exempt(image) {
		return false
	}
	if rec == nil {
		return true
	}
	known, ok := rec.CredentialMapping[repository(image)]
	if !ok {
		return true
	}
	if known.NodePodsAccessible {
		return false
	}
	if len(known.KubernetesSecrets) == 0 && len(known.KubernetesServiceAccounts) == 0 {
		return true
	}
	for _, c := range have() {
		if !allows(&known, c) {
			continue
		}
		r.mu.Lock()
		err := r.add(image, ref, c) // the same credential in another secret, or another one in the same
		r.mu.Unlock()
		if err != nil {
			r.cfg.Log.Warn("cannot remember who can pull an image", "image", image, "error", err)
		}
		return false
	}
	return true
}

// intended says that the image is being pulled, or was when a process ended.
func (r *Records) intended(image string) bool {
	_, err := os.Stat(r.intent(image))
	return err == nil || !errors.Is(err, os.ErrNotExist)
}

// allows says that a credential is among those known: it is in the same
// secret, or it is the same credential, or the same account's.
func allows(known *kubeletv1beta1.ImagePullCredentials, c Credential) bool {
	switch {
	case c.Secret != nil:
		return slices.ContainsFunc(known.KubernetesSecrets, func(k kubeletv1beta1.ImagePullSecret) bool {
			return sameSecret(&k, c.Secret) || k.CredentialHash != "" && k.CredentialHash == c.Secret.CredentialHash
		})
	case c.Account != nil:
		return slices.Contains(known.KubernetesServiceAccounts, *c.Account)
	}
	return false
}

// exempt says that an image which the kubelet did not pull can be used by
// every pod.
func (r *Records) exempt(image string) bool {
	switch r.cfg.Policy {
	case kubeletv1beta1.NeverVerifyPreloadedImages:
		return true
	case kubeletv1beta1.NeverVerifyAllowlistedImages:
		names := []string{repository(image)}
		if ref, err := reference.ParseNormalizedNamed(names[0]); err == nil {
			names = append(names, ref.Name()) // with the domain that it leaves out
		}
		return slices.ContainsFunc(r.cfg.Allowlist, func(pattern string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return matches(pattern, name) })
		})
	}
	return false
}

// matches holds a name against an entry of the allowlist.
func matches(pattern, name string) bool {
	if below, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(name, below+"/")
	}
	return name == pattern
}

// CheckPattern refuses an entry of the allowlist that can never match.
func CheckPattern(pattern string) error {
	name := strings.TrimSuffix(pattern, "/*")
	switch {
	case name == "" || strings.TrimSpace(pattern) != pattern:
		return fmt.Errorf("%q names no image", pattern)
	case strings.Contains(name, "*"):
		return fmt.Errorf("%q: a wildcard stands for a whole path at the end only (\"/*\")", pattern)
	case name == pattern && repository(name) != name, strings.Contains(name, "@"):
		return fmt.Errorf("%q: want no tag or digest", pattern)
	}
	return nil
}

// repository is an image's name without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		image = image[:i]
	}
	return image
}

// Forget drops the record of an image that was removed.
func (r *Records) Forget(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := remove(r.record(ref)); err != nil {
		r.cfg.Log.Warn("cannot forget with which credentials an image was pulled", "image", ref, "error", err)
	}
}

// Settle looks through what an earlier process left. What it was pulling, and
// find finds ("" for none), was pulled with nobody knows which credentials;
// what images, those that are there, lists no more is forgotten. What an error
// is about is left for the next start.
func (r *Records) Settle(ctx context.Context, find func(ctx context.Context, image string) (ref string, err error), images func(ctx context.Context) (refs []string, err error)) error {
	var errs []error
	for _, path := range files(r.intents()) {
		errs = append(errs, r.settle(ctx, path, find))
	}
	// What is written from here on is not looked at: it may be of images that
	// are not listed yet.
	stale := map[string]time.Time{}
	for _, path := range files(r.pulls()) {
		if fi, err := os.Stat(path); err == nil {
			stale[path] = fi.ModTime()
		}
	}
	refs, err := images(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, ref := range refs {
		delete(stale, r.record(ref))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, at := range stale {
		if fi, err := os.Stat(path); err == nil && fi.ModTime().Equal(at) {
			errs = append(errs, remove(path))
		}
	}
	return errors.Join(errs...)
}

// settle ends the intent of an earlier process in a file.
func (r *Records) settle(ctx context.Context, path string, find func(context.Context, string) (string, error)) error {
	var i kubeletv1beta1.ImagePullIntent
	if err := readFile(path, &i); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil || i.Image == "" {
		return errors.Join(err, remove(path)) // it names nothing
	}
	ref, err := find(ctx, i.Image)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling[i.Image] > 0 {
		return nil // it is this process's by now
	}
	if ref != "" {
		if rec, err := r.read(ref); rec == nil || err != nil {
			if err := r.save(&kubeletv1beta1.ImagePulledRecord{ImageRef: ref}); err != nil {
				return err
			}
		}
	}
	return remove(path)
}

// remove deletes a file that may be gone.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// read returns an image's record, nil where there is none.
func (r *Records) read(ref string) (*kubeletv1beta1.ImagePulledRecord, error) {
	var rec kubeletv1beta1.ImagePulledRecord
	err := readFile(r.record(ref), &rec)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil && (rec.Kind != recordKind || rec.ImageRef != ref) {
		err = fmt.Errorf("%s is not the record of %s", r.record(ref), ref)
	}
	if err != nil {
		return nil, err
	}
	return &rec, nil
}

func readFile(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, b, 0o600)
}

// files lists the records of a folder.
func files(dir string) []string {
	out, _ := filepath.Glob(filepath.Join(dir, filePrefix+"*"))
	return out
}
