package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

const (
	tokenType   = corev1.SecretType("bootstrap.kubernetes.io/token")
	tokenPrefix = "bootstrap-token-"
	// tokenGroup is in what the token's holder is, besides
	// system:bootstrappers.
	tokenGroup = "system:bootstrappers:cox:nodes"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make, list and delete the tokens with which machines join"}
	cmd.AddCommand(tokenCreate(), tokenList(), tokenDelete())
	return cmd
}

// admin connects as the administrator whose kubeconfig the server wrote.
func (c *config) admin() (client.Interface, *rest.Config, error) {
	if _, err := os.Stat(c.Kubeconfig); err != nil {
		return nil, nil, fmt.Errorf("no kubeconfig %s: is this the server's machine, and does the cluster run? (%w)", c.Kubeconfig, err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", c.Kubeconfig, err)
	}
	door, err := client.Remote(cfg)
	return door, cfg, err
}

// createToken makes a bootstrap token that lasts for ttl (0: for ever) and
// returns it with the authority's hash.
func createToken(ctx context.Context, door client.Interface, caPEM []byte, ttl time.Duration, description string) (pki.JoinToken, error) {
	certs, err := pki.ParseCertificates(caPEM)
	if err != nil || len(certs) == 0 {
		return pki.JoinToken{}, errors.New("the kubeconfig names no certificate authority")
	}
	boot, err := pki.NewBootstrapToken()
	if err != nil {
		return pki.JoinToken{}, err
	}
	data := map[string]string{
		"token-id": boot.ID, "token-secret": boot.Secret, "description": description,
		"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "auth-extra-groups": tokenGroup,
	}
	if ttl > 0 {
		data["expiration"] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: tokenPrefix + boot.ID}, Type: tokenType, Data: map[string][]byte{}}
	for k, v := range data {
		secret.Data[k] = []byte(v)
	}
	if _, err := client.Secrets.In(door, metav1.NamespaceSystem).Create(ctx, secret); err != nil {
		return pki.JoinToken{}, fmt.Errorf("store the token: %w", err)
	}
	return pki.JoinToken{CAHash: pki.SPKIHash(certs[0]), BootstrapToken: boot}, nil
}

func tokenCreate() *cobra.Command {
	c := &config{}
	var ttl time.Duration
	var description string
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			if ttl < 0 {
				return fmt.Errorf("--ttl %v: want a time to come, or 0 for ever", ttl)
			}
			door, cfg, err := c.admin()
			if err != nil {
				return err
			}
			token, err := createToken(cmd.Context(), door, cfg.CAData, ttl, description)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			fmt.Fprintf(cmd.ErrOrStderr(), "\nOn the other machine, as root:\n  COX_TOKEN=(the line above) cox agent --server https://%s\n", c.advertised())
			return nil
		},
	}
	c.clusterFlags(cmd.Flags(), "advertise-address", "https-listen-port")
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token can be used; 0 is for ever")
	cmd.Flags().StringVar(&description, "description", "", "what the token is for")
	return cmd
}

// advertised is where other machines find the API server.
func (c *config) advertised() string {
	host := c.AdvertiseAddress
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, c.Port)
}

func tokenList() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			door, _, err := c.admin()
			if err != nil {
				return err
			}
			secrets, _, err := client.Secrets.In(door, metav1.NamespaceSystem).List(cmd.Context(), client.Options{
				FieldSelector: fields.OneTermEqualSelector("type", string(tokenType)),
			})
			if err != nil {
				return fmt.Errorf("list the tokens: %w", err)
			}
			slices.SortFunc(secrets, func(a, b *corev1.Secret) int { return cmp.Compare(a.Name, b.Name) })
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
			for _, s := range secrets {
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.Data["token-id"], cmp.Or(string(s.Data["expiration"]), "never"), s.Data["description"])
			}
			return w.Flush()
		},
	}
	c.clusterFlags(cmd.Flags(), "advertise-address", "https-listen-port")
	return cmd
}

func tokenDelete() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "delete ID...", Short: "Make tokens worthless; nodes that have joined stay", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.load(cmd.Flags()); err != nil {
				return err
			}
			door, _, err := c.admin()
			if err != nil {
				return err
			}
			var problems []error
			for _, arg := range args {
				problems = append(problems, deleteToken(cmd.Context(), door, arg))
			}
			return errors.Join(problems...)
		},
	}
	c.clusterFlags(cmd.Flags(), "advertise-address", "https-listen-port")
	return cmd
}

// deleteToken takes an ID or a whole token, which it does not repeat.
func deleteToken(ctx context.Context, door client.Interface, arg string) error {
	id := arg
	if token, err := pki.ParseJoinToken(arg); err == nil {
		id = token.ID
	} else if token, err := pki.ParseBootstrapToken(arg); err == nil {
		id = token.ID
	}
	if len(id) != 6 {
		return errors.New("not a token's ID: it has six characters, see `cox token list`")
	}
	err := client.Secrets.In(door, metav1.NamespaceSystem).Delete(ctx, tokenPrefix+id, client.Options{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no token %s", id)
	}
	return err
}
