package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/component"
	"github.com/coxswain/cox/kubelet"
	kubeletserver "github.com/coxswain/cox/kubelet/server"
	kubeletsettings "github.com/coxswain/cox/kubelet/settings"
	"github.com/coxswain/cox/pki"
	"github.com/coxswain/cox/runtime"
)

// kubeletRole is the kubelet alone, by the names of upstream's flags.
type kubeletRole struct {
	kubeconfig, config, configDir    string
	rootDir, certDir                 string
	hostname, nodeIP                 string
	endpoint                         string
	labels, taints                   []string
	credentialConfig, credentialsDir string
	logLevel                         string
	flags                            map[string]string
}

// kubeletCommand runs a kubelet against any API server and any CRI runtime.
// Pod network, proxy and DNS are left to others.
func kubeletCommand() *cobra.Command {
	r := &kubeletRole{}
	cmd := &cobra.Command{
		Use:   "kubelet",
		Short: "Run the kubelet alone, against any Kubernetes 1.36 cluster and any CRI runtime",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			r.flags = shownFlags(cmd.Flags())
			return r.run(ctx)
		},
	}
	host, _ := os.Hostname()
	fs := cmd.Flags()
	fs.StringVar(&r.kubeconfig, "kubeconfig", "", "how the API server is reached, as system:node:NAME")
	fs.StringVar(&r.config, "config", "", "kubelet configuration file (KubeletConfiguration, kubelet.config.k8s.io/v1beta1)")
	fs.StringVar(&r.configDir, "config-dir", "", "folder of drop-ins (*.conf) to it")
	fs.StringVar(&r.rootDir, "root-dir", "/var/lib/kubelet", "folder of the pods' files and of plugins' sockets")
	fs.StringVar(&r.certDir, "cert-dir", "/var/lib/kubelet/pki", "folder of the serving certificate, where the configuration names none")
	fs.StringVar(&r.hostname, "hostname-override", strings.ToLower(host), "name of the node")
	fs.StringVar(&r.nodeIP, "node-ip", "", "addresses of the node, one per family (default: that of the default route)")
	fs.StringVar(&r.endpoint, "container-runtime-endpoint", "unix:///run/containerd/containerd.sock", "CRI socket, if the configuration names none")
	fs.StringSliceVar(&r.labels, "node-labels", nil, "labels that the node registers with (key=value)")
	fs.StringSliceVar(&r.taints, "register-with-taints", nil, "taints that the node registers with (key=value:effect)")
	fs.StringVar(&r.credentialConfig, "image-credential-provider-config", "", "configuration of the plugins that know registries' credentials")
	fs.StringVar(&r.credentialsDir, "image-credential-provider-bin-dir", "", "folder of these plugins")
	fs.StringVar(&r.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (r *kubeletRole) run(ctx context.Context) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	quiet(log)
	s, err := kubeletsettings.Load(r.config, r.configDir)
	if err != nil {
		return err
	}
	for _, w := range s.Warnings {
		log.Warn("kubelet configuration: " + w)
	}
	if r.kubeconfig == "" {
		return errors.New("--kubeconfig is missing")
	}
	rest, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	rest.UserAgent = "kubelet/" + gitVersion
	door, err := client.Remote(rest)
	if err != nil {
		return err
	}
	if s.ContainerRuntimeEndpoint != "" {
		r.endpoint = s.ContainerRuntimeEndpoint
	}
	rt, err := runtime.Dial(r.endpoint)
	if err != nil {
		return fmt.Errorf("--container-runtime-endpoint: %w", err)
	}
	defer rt.Close()
	k, server, serving, err := r.build(s, door, strings.TrimPrefix(rest.Host, "https://"), rt, log)
	if err != nil {
		return err
	}
	group := component.NewGroup(ctx, log)
	defer group.Stop()
	if serving != nil {
		group.Go("serving-certificate", func(ctx context.Context) error { return serving.Run(ctx, nil) })
	}
	group.Go("kubelet", k.Run)
	group.Go("kubelet-api", func(ctx context.Context) error {
		l, err := net.Listen("tcp", s.Listen())
		if err != nil {
			return fmt.Errorf("the kubelet's API cannot listen: %w", err)
		}
		return server.Serve(ctx, l)
	})
	if at := s.Healthz(); at != "" {
		group.Go("healthz", func(ctx context.Context) error { return serveHealthz(ctx, at) })
	}
	<-ctx.Done()
	log.Info("stopping")
	return nil
}

// build makes the kubelet, which reaches the API server at host through door,
// and its API, and the certificate of that if the
// cluster is to sign it.
func (r *kubeletRole) build(s *kubeletsettings.Settings, door client.Interface, host string, rt *runtime.Runtime, log *slog.Logger) (*kubelet.Kubelet, *kubeletserver.Server, *pki.Requested, error) {
	labels, err := keyValues(r.labels)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("--node-labels: %w", err)
	}
	taints, err := parseTaints(r.taints)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("--register-with-taints: %w", err)
	}
	ips := []string{defaultIP()}
	if r.nodeIP != "" {
		ips = strings.Split(r.nodeIP, ",")
	}
	requests := client.NewMetrics()
	door = requests.Counted(door, host)
	runtimeService, imageService := rt.CRI()
	config := kubelet.Config{
		Client: door, NodeName: r.hostname, NodeIPs: ips, RootDir: r.rootDir, LogDir: "/var/log/pods", ContainerLogDir: "/var/log/containers",
		Runtime: runtimeService, Images: imageService, DefaultPod: func(p *corev1.Pod) { podspec.Default(&p.Spec) },
		ResolvConf: resolvConf(), Labels: labels, Taints: taints, Version: gitVersion, Log: log.With("component", "kubelet"),
		Credentials: kubelet.Credentials{ConfigFile: r.credentialConfig, BinDir: r.credentialsDir},
	}
	if err := s.Apply(&config); err != nil {
		return nil, nil, nil, fmt.Errorf("--config: %w", err)
	}
	s.Show(&config)
	k, err := kubelet.New(config)
	if err != nil {
		return nil, nil, nil, err
	}
	certificate, serving, err := servingCertificate(s.ServerTLSBootstrap, r.certDir, r.hostname, ips, door, log)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("--cert-dir: %w", err)
	}
	api := kubeletserver.Config{
		Node: k, Runtime: runtimeService, Images: imageService, Client: door, Groups: k, Metrics: append(k.Metrics(), rt.Operations(), requests),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		ClientCAs:      x509.NewCertPool, // none: only tokens, unless the configuration names an authority
		RootDir:        r.rootDir, CheckpointDir: filepath.Join(r.rootDir, "checkpoints"), Version: gitVersion, Flags: r.flags, Log: log.With("component", "kubelet-api"),
	}
	if err := s.ApplyServer(&api); err != nil {
		return nil, nil, nil, fmt.Errorf("--config: %w", err)
	}
	server, err := kubeletserver.New(api)
	return k, server, serving, err
}

// parseTaints reads "key=value:effect" and "key:effect".
func parseTaints(list []string) ([]corev1.Taint, error) {
	var out []corev1.Taint
	for _, t := range list {
		left, effect, ok := strings.Cut(t, ":")
		key, value, _ := strings.Cut(left, "=")
		switch corev1.TaintEffect(effect) {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		default:
			ok = false
		}
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is not key=value:effect", t)
		}
		out = append(out, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return out, nil
}

// serveHealthz answers /healthz without encryption, for those who watch over
// the kubelet on its own machine.
func serveHealthz(ctx context.Context, at string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	s := &http.Server{Addr: at, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.ListenAndServe(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("healthz: %w", err)
	}
	return nil
}
