package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/client"
)

// accountDoors are doors under service accounts of kube-system, for whose
// tokens the API server is asked.
type accountDoors struct {
	conf *rest.Config     // where the API server is; its credentials are not used
	door client.Interface // may make accounts and tokens
}

// get returns the door of an account, which is made if it is not there. It
// connects with the first request.
func (a *accountDoors) get(account string) client.Interface {
	conf := rest.AnonymousClientConfig(a.conf)
	conf.UserAgent = a.conf.UserAgent + "/system:serviceaccount:" + metav1.NamespaceSystem + ":" + account
	bearer := &accountBearer{door: a.door, account: account}
	conf.Wrap(func(next http.RoundTripper) http.RoundTripper {
		bearer.next = next
		return bearer
	})
	door, err := client.Remote(conf)
	if err != nil { // the same settings have led to a.door before
		panic(fmt.Sprintf("door of %s: %v", account, err))
	}
	return door
}

// accountBearer sends requests under a service account.
type accountBearer struct {
	door    client.Interface
	account string
	next    http.RoundTripper

	mu      sync.Mutex
	token   string
	refresh time.Time
}

func (b *accountBearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.current(r.Context())
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := b.next.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		b.forget(token) // its account may have been made anew
	}
	return resp, err
}

func (b *accountBearer) forget(token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token == token {
		b.token = ""
	}
}

// current returns the account's token, a new one once most of the old one's
// life is over.
func (b *accountBearer) current(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.token != "" && now.Before(b.refresh) {
		return b.token, nil
	}
	made, err := b.request(ctx)
	if apierrors.IsNotFound(err) {
		_, err = client.ServiceAccounts.In(b.door, metav1.NamespaceSystem).Create(ctx, &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Name: b.account, Namespace: metav1.NamespaceSystem},
		})
		if err == nil || apierrors.IsAlreadyExists(err) {
			made, err = b.request(ctx)
		}
	}
	if err != nil {
		return "", fmt.Errorf("token of the service account %s: %w", b.account, err)
	}
	b.token = made.Status.Token
	b.refresh = now.Add(made.Status.ExpirationTimestamp.Sub(now) * 8 / 10)
	return b.token, nil
}

func (b *accountBearer) request(ctx context.Context) (*authenticationv1.TokenRequest, error) {
	out, err := client.ServiceAccounts.In(b.door, metav1.NamespaceSystem).CreateSub(ctx, b.account, "token", &authenticationv1.TokenRequest{})
	if err != nil {
		return nil, err
	}
	made, ok := out.(*authenticationv1.TokenRequest)
	if !ok || made.Status.Token == "" {
		return nil, fmt.Errorf("the API server answered a TokenRequest with %T", out)
	}
	return made, nil
}
