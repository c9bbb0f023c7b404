package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/internal/atomicfile"
)

// The parts of a kubeconfig (client-go's Config, v1) that are written here.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     []byte `json:"certificate-authority-data,omitempty"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string   `json:"name"`
	User userAuth `json:"user"`
}

type userAuth struct {
	Cert []byte `json:"client-certificate-data,omitempty"`
	Key  []byte `json:"client-key-data,omitempty"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// WriteKubeconfig writes a kubeconfig, mode 0600, that reaches server (an
// https URL) with a client certificate. The file is replaced in one step and
// left alone when it says the same already.
func WriteKubeconfig(path, server string, caPEM, cert, key []byte) error {
	const name = "cox"
	kc := kubeconfig{APIVersion: "v1", Kind: "Config", CurrentContext: name}
	kc.Clusters = []namedCluster{{Name: name}}
	kc.Clusters[0].Cluster.Server, kc.Clusters[0].Cluster.CA = server, caPEM
	kc.Users = []namedUser{{Name: name, User: userAuth{Cert: cert, Key: key}}}
	kc.Contexts = []namedContext{{Name: name}}
	kc.Contexts[0].Context.Cluster, kc.Contexts[0].Context.User = name, name
	data, err := yaml.Marshal(kc)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder of kubeconfig: %w", err)
	}
	if have, err := os.ReadFile(path); err == nil && string(have) == string(data) {
		return os.Chmod(path, 0o600)
	}
	return atomicfile.WriteLight(path, data, 0o600)
}

// ParseCertificates reads all certificates of a PEM text.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	certs, err := allCerts(data)
	if err == nil && len(certs) == 0 {
		err = errors.New("holds no PEM certificate")
	}
	return certs, err
}
