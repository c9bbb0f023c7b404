package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"

	corev1 "k8s.io/api/core/v1"
)

// Static knows the tokens of a file. Only their hashes are kept.
type Static struct {
	users     map[[sha256.Size]byte]client.User
	audiences []string
}

// LoadStatic reads a token file: one token per line as
// TOKEN,USER,UID[,"GROUP1,GROUP2"] (the API documentation's "static token
// file"). audiences are the API server's own.
func LoadStatic(path string, audiences []string) (*Static, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open token file: %w", err)
	}
	defer f.Close()
	s, err := readStatic(f, audiences)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", path, err)
	}
	return s, nil
}

func readStatic(in io.Reader, audiences []string) (*Static, error) {
	s := &Static{users: map[[sha256.Size]byte]client.User{}, audiences: audiences}
	r := csv.NewReader(in)
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			return nil, fmt.Errorf("line %d: %w", bad.Line, bad.Err)
		}
		if err != nil {
			return nil, err
		}
		line, _ := r.FieldPos(0)
		switch {
		case len(rec) < 3:
			return nil, fmt.Errorf("line %d: want at least 3 columns (token, user name, user uid), found %d", line, len(rec))
		case rec[0] == "":
			return nil, fmt.Errorf("line %d: the token is empty", line)
		}
		u := client.User{Name: rec[1], UID: rec[2]}
		if len(rec) > 3 && rec[3] != "" {
			u.Groups = strings.Split(rec[3], ",")
		}
		s.users[sha256.Sum256([]byte(rec[0]))] = u
	}
}

// AuthenticateToken implements TokenAuthenticator.
func (s *Static) AuthenticateToken(_ context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	u, ok := s.users[sha256.Sum256([]byte(token))]
	if !ok {
		return nil, false, nil
	}
	return ForAPI(u, s.audiences, audiences)
}

// ForAPI is the result of a token that is for the API server only: own are its
// audiences, asked those that the asker stands for (none: the same). ok is false
// when they have none in common.
func ForAPI(u client.User, own, asked []string) (res *TokenResult, ok bool, err error) {
	auds := own
	if len(asked) > 0 {
		if auds = intersect(own, asked); len(auds) == 0 {
			return nil, false, nil
		}
	}
	return &TokenResult{User: u, Audiences: auds}, true, nil
}

func intersect(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// Bootstrap knows the bootstrap tokens, which are secrets of the type
// bootstrap.kubernetes.io/token in kube-system.
type Bootstrap struct {
	door      client.Interface
	audiences []string
	now       func() time.Time
}

// NewBootstrap makes an authenticator that reads through door, which needs
// the right to get secrets in kube-system. audiences are the API server's.
func NewBootstrap(door client.Interface, audiences []string, now func() time.Time) *Bootstrap {
	return &Bootstrap{door, audiences, now}
}

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// AuthenticateToken implements TokenAuthenticator. It tells no one which part
// of a token was wrong.
func (b *Bootstrap) AuthenticateToken(ctx context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	m := bootstrapToken.FindStringSubmatch(token)
	if m == nil {
		return nil, false, nil
	}
	id, secret := m[1], m[2]
	s, err := live(ctx, client.Secrets.In(b.door, "kube-system"), "bootstrap-token-"+id, func(s *corev1.Secret) bool { return true })
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up bootstrap token: %w", err)
	}
	same := subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) == 1
	if !same || s.DeletionTimestamp != nil || s.Type != corev1.SecretTypeBootstrapToken ||
		string(s.Data["token-id"]) != id || string(s.Data["usage-bootstrap-authentication"]) != "true" || b.expired(s) {
		return nil, false, nil
	}
	u := client.User{Name: "system:bootstrap:" + id, Groups: []string{"system:bootstrappers"}}
	for g := range strings.SplitSeq(string(s.Data["auth-extra-groups"]), ",") {
		if g = strings.TrimSpace(g); g == "" {
			continue
		}
		if !bootstrapGroup.MatchString(g) {
			return nil, false, fmt.Errorf("bootstrap token %s names a group that it may not have: %q", id, g)
		}
		u.Groups = append(u.Groups, g)
	}
	return ForAPI(u, b.audiences, audiences)
}

func (b *Bootstrap) expired(s *corev1.Secret) bool {
	text := string(s.Data["expiration"])
	if text == "" {
		return false
	}
	at, err := time.Parse(time.RFC3339, text)
	return err != nil || !b.now().Before(at)
}
