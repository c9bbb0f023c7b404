// Package credentials asks the image credential provider plugins of the node
// for credentials of registries: an image's name flows in, what the plugins
// know flows out (CredentialProviderConfig and the exec protocol
// credentialprovider.kubelet.k8s.io/v1).
package credentials

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfigv1 "k8s.io/kubelet/config/v1"
	credentialv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"
)

const (
	configVersion  = "kubelet.config.k8s.io/v1"
	requestVersion = "credentialprovider.kubelet.k8s.io/v1"
	callTimeout    = time.Minute
	afterEnd       = time.Second // that output is read for after a plugin's end
	maxOutput      = 1 << 20
	maxCached      = 1024
)

// Config is what a Manager needs.
type Config struct {
	// File configures the plugins, BinDir holds their programs.
	File, BinDir string
	// Account returns the annotations and UID of the service account of a
	// pod, and a token for it that is bound to the pod.
	Account func(ctx context.Context, pod *corev1.Pod, audience string) (account *corev1.ServiceAccount, token string, err error)
	Log     *slog.Logger
	Clock   clock.PassiveClock
}

// Manager runs the plugins. It is safe for concurrent use.
type Manager struct {
	cfg       Config
	providers []kubeletconfigv1.CredentialProvider

	mu      sync.Mutex
	cached  map[string]answer
	running map[string]*call
}

type answer struct {
	auth  map[string]credentialv1.AuthConfig
	until time.Time
}

type call struct {
	done chan struct{}
	auth map[string]credentialv1.AuthConfig
	err  error
}

// New reads the configuration. Errors name the field.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, cached: map[string]answer{}, running: map[string]*call{}}
	b, err := os.ReadFile(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("credential providers: %w", err)
	}
	var c kubeletconfigv1.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return nil, fmt.Errorf("credential providers: %s: %w", cfg.File, err)
	}
	if c.Kind != "CredentialProviderConfig" || c.APIVersion != configVersion {
		return nil, fmt.Errorf("credential providers: %s holds %s %s, want %s CredentialProviderConfig", cfg.File, c.APIVersion, c.Kind, configVersion)
	}
	names := map[string]bool{}
	for i := range c.Providers {
		if err := m.check(&c.Providers[i]); err != nil {
			return nil, fmt.Errorf("credential providers: providers[%d]: %w", i, err)
		}
		if names[c.Providers[i].Name] {
			return nil, fmt.Errorf("credential providers: two are named %q", c.Providers[i].Name)
		}
		names[c.Providers[i].Name] = true
	}
	m.providers = c.Providers
	return m, nil
}

func (m *Manager) check(p *kubeletconfigv1.CredentialProvider) error {
	switch {
	case p.Name == "" || filepath.Base(p.Name) != p.Name || p.Name == "." || p.Name == "..":
		return fmt.Errorf("name %q is no name of a program", p.Name)
	case p.APIVersion != requestVersion:
		return fmt.Errorf("apiVersion %q: want %s", p.APIVersion, requestVersion)
	case len(p.MatchImages) == 0:
		return errors.New("matchImages is empty")
	case p.DefaultCacheDuration == nil || p.DefaultCacheDuration.Duration < 0:
		return errors.New("defaultCacheDuration is missing or negative")
	}
	if a := p.TokenAttributes; a != nil {
		switch {
		case a.ServiceAccountTokenAudience == "":
			return errors.New("tokenAttributes.serviceAccountTokenAudience is missing")
		case a.RequireServiceAccount == nil:
			return errors.New("tokenAttributes.requireServiceAccount is missing")
		case a.CacheType != kubeletconfigv1.TokenServiceAccountTokenCacheType && a.CacheType != kubeletconfigv1.ServiceAccountServiceAccountTokenCacheType:
			return fmt.Errorf("tokenAttributes.cacheType %q: want Token or ServiceAccount", a.CacheType)
		}
	}
	fi, err := os.Stat(filepath.Join(m.cfg.BinDir, p.Name))
	if err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return fmt.Errorf("there is no program %s in %s", p.Name, m.cfg.BinDir)
	}
	return nil
}

// Auth is a credential, and the pattern of images for which it is. Account is
// the service account whose token the plugin was shown for it, nil of those
// that it gives to every pod.
type Auth struct {
	Pattern            string
	Username, Password string
	Account            *corev1.ServiceAccount
}

// For returns what the plugins know for an image of a pod ("host/path:tag"),
// the most specific first. Plugins that fail are logged and passed over.
func (m *Manager) For(ctx context.Context, pod *corev1.Pod, image string) []Auth {
	var out []Auth
	for i := range m.providers {
		p := &m.providers[i]
		if !slices.ContainsFunc(p.MatchImages, func(pattern string) bool { return Matches(pattern, image) }) {
			continue
		}
		req := &credentialv1.CredentialProviderRequest{TypeMeta: metav1.TypeMeta{APIVersion: requestVersion, Kind: "CredentialProviderRequest"}, Image: image}
		sa, key, skip, err := m.account(ctx, p, pod, req)
		var auth map[string]credentialv1.AuthConfig
		if err == nil && !skip {
			auth, err = m.ask(ctx, p, req, key)
		}
		if err != nil {
			m.cfg.Log.Warn("a credential provider failed", "provider", p.Name, "error", err)
			continue
		}
		out = append(out, matching(auth, image, sa)...)
	}
	// Longer patterns first, those without globs before those with.
	slices.SortStableFunc(out, func(a, b Auth) int { return strings.Compare(b.Pattern, a.Pattern) })
	return out
}

// matching are those of a plugin's credentials that are for an image.
func matching(auth map[string]credentialv1.AuthConfig, image string, sa *corev1.ServiceAccount) []Auth {
	var out []Auth
	for pattern, a := range auth {
		if Matches(pattern, image) {
			out = append(out, Auth{pattern, a.Username, a.Password, sa})
		}
	}
	return out
}

// ask runs a plugin unless it has answered the same before; account tells its
// answers apart.
func (m *Manager) ask(ctx context.Context, p *kubeletconfigv1.CredentialProvider, req *credentialv1.CredentialProviderRequest, account string) (map[string]credentialv1.AuthConfig, error) {
	host, repository := split(req.Image)
	keys := []string{p.Name + " global " + account, p.Name + " registry " + host + " " + account, p.Name + " image " + repository + " " + account}
	m.mu.Lock()
	for _, k := range keys {
		if a, ok := m.cached[k]; ok && m.cfg.Clock.Now().Before(a.until) {
			m.mu.Unlock()
			return a.auth, nil
		}
	}
	// One run at a time for the same question.
	if c := m.running[keys[2]]; c != nil {
		m.mu.Unlock()
		select {
		case <-c.done:
			return c.auth, c.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c := &call{done: make(chan struct{})}
	m.running[keys[2]] = c
	m.mu.Unlock()

	res, err := m.run(ctx, p, req)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, keys[2])
	defer close(c.done)
	if err != nil {
		c.err = err
		return nil, err
	}
	c.auth = res.Auth
	at := slices.Index([]credentialv1.PluginCacheKeyType{credentialv1.GlobalPluginCacheKeyType, credentialv1.RegistryPluginCacheKeyType, credentialv1.ImagePluginCacheKeyType}, res.CacheKeyType)
	if at < 0 {
		c.auth, c.err = nil, fmt.Errorf("answered with cacheKeyType %q", res.CacheKeyType)
		return nil, c.err
	}
	life := p.DefaultCacheDuration.Duration
	if res.CacheDuration != nil {
		life = res.CacheDuration.Duration
	}
	if life > 0 {
		if len(m.cached) >= maxCached {
			clear(m.cached) // it only saves runs
		}
		m.cached[keys[at]] = answer{res.Auth, m.cfg.Clock.Now().Add(life)}
	}
	return res.Auth, nil
}

// account adds the service account's token to a request where the plugin wants
// it, and returns that account and what tells the answers apart by account. skip
// says that the plugin is not to be asked for this pod.
func (m *Manager) account(ctx context.Context, p *kubeletconfigv1.CredentialProvider, pod *corev1.Pod, req *credentialv1.CredentialProviderRequest) (sa *corev1.ServiceAccount, key string, skip bool, err error) {
	a := p.TokenAttributes
	if a == nil {
		return nil, "", false, nil
	}
	if pod.Spec.ServiceAccountName == "" || m.cfg.Account == nil {
		return nil, "", *a.RequireServiceAccount, nil
	}
	sa, token, err := m.cfg.Account(ctx, pod, a.ServiceAccountTokenAudience)
	if err != nil {
		return nil, "", false, fmt.Errorf("token of the service account %s: %w", pod.Spec.ServiceAccountName, err)
	}
	req.ServiceAccountToken, req.ServiceAccountAnnotations = token, map[string]string{}
	for _, name := range a.RequiredServiceAccountAnnotationKeys {
		v, ok := sa.Annotations[name]
		if !ok {
			return nil, "", false, fmt.Errorf("the service account %s lacks the annotation %s", sa.Name, name)
		}
		req.ServiceAccountAnnotations[name] = v
	}
	for _, name := range a.OptionalServiceAccountAnnotationKeys {
		if v, ok := sa.Annotations[name]; ok {
			req.ServiceAccountAnnotations[name] = v
		}
	}
	notes, _ := json.Marshal(req.ServiceAccountAnnotations)
	parts := []any{sa.Namespace, sa.Name, sa.UID, string(notes)}
	if a.CacheType == kubeletconfigv1.TokenServiceAccountTokenCacheType {
		parts = append(parts, token)
	}
	return sa, fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q", parts))), false, nil
}

// run executes a plugin: the request goes to its input, the answer comes from
// its output.
func (m *Manager) run(ctx context.Context, p *kubeletconfigv1.CredentialProvider, req *credentialv1.CredentialProviderRequest) (*credentialv1.CredentialProviderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(m.cfg.BinDir, p.Name), p.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	out, errs := &limited{most: maxOutput}, &limited{most: 4 << 10}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, errs
	cmd.WaitDelay = afterEnd
	// What a plugin that has ended leaves running holds its output open.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return read(out.Bytes())
}

// read takes in what a plugin answered.
func read(text []byte) (*credentialv1.CredentialProviderResponse, error) {
	var res credentialv1.CredentialProviderResponse
	if err := json.Unmarshal(text, &res); err != nil {
		return nil, errors.New("its answer is not valid JSON") // which it might quote
	}
	if res.Kind != "CredentialProviderResponse" || res.APIVersion != requestVersion {
		return nil, fmt.Errorf("it answered with %.64q %.64q", res.APIVersion, res.Kind)
	}
	return &res, nil
}

// limited keeps the first bytes that are written to it.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(b []byte) (int, error) {
	l.Buffer.Write(b[:min(len(b), max(l.most-l.Len(), 0))])
	return len(b), nil
}

// split returns an image's registry, and its name without tag and digest.
func split(image string) (host, repository string) {
	repository, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(repository, ":"); i > strings.LastIndex(repository, "/") {
		repository = repository[:i]
	}
	host, _, _ = strings.Cut(repository, "/")
	return host, repository
}

// Matches holds an image against a pattern: "*.example.com:5000/path", with
// globs in the parts of the host only, and the path as a prefix (type comment
// of matchImages).
func Matches(pattern, image string) bool {
	want, err := url.Parse("https://" + strings.TrimPrefix(strings.TrimPrefix(pattern, "https://"), "http://"))
	if err != nil {
		return false
	}
	_, repository := split(image)
	have, err := url.Parse("https://" + repository)
	if err != nil || want.Port() != have.Port() {
		return false
	}
	wl, hl := strings.Split(want.Hostname(), "."), strings.Split(have.Hostname(), ".")
	if len(wl) != len(hl) {
		return false
	}
	for i := range wl {
		if ok, err := path.Match(wl[i], hl[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix(have.Path, want.Path)
}
