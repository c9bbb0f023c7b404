package plugins

import (
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/apiserver/callout"
)

// ReadConfigs reads an AdmissionConfiguration (apiserver.config.k8s.io/v1):
// the configuration of each plugin that it names, as YAML or JSON. A file that
// it names is looked for beside it. An empty path is no configuration.
func ReadConfigs(path string) (map[string][]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("unable to read admission control configuration from %q [%w]", path, err)
	}
	var file struct {
		metav1.TypeMeta `json:",inline"`
		Plugins         []struct {
			Name          string                `json:"name"`
			Path          string                `json:"path"`
			Configuration *runtime.RawExtension `json:"configuration"`
		} `json:"plugins"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("admission control configuration %s: %w", path, err)
	}
	switch file.APIVersion {
	case "apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1":
	default:
		return nil, fmt.Errorf("admission control configuration %s: unknown version %q", path, file.APIVersion)
	}
	if file.Kind != "AdmissionConfiguration" {
		return nil, fmt.Errorf("admission control configuration %s: unknown kind %q", path, file.Kind)
	}
	out := map[string][]byte{}
	for _, p := range file.Plugins {
		switch {
		case p.Configuration != nil:
			out[p.Name] = p.Configuration.Raw
		case p.Path != "":
			at := p.Path
			if !filepath.IsAbs(at) {
				at = filepath.Join(filepath.Dir(path), at)
			}
			content, err := os.ReadFile(at)
			if err != nil {
				return nil, fmt.Errorf("Couldn't open admission plugin configuration %s: %w", at, err)
			}
			out[p.Name] = content
		}
	}
	return out, nil
}

// WebhookUsers reads who the webhooks of a plugin are asked as (the kubeconfig
// file of its WebhookAdmissionConfiguration); nil if the configuration says
// nothing of it.
func WebhookUsers(configs map[string][]byte, plugin string) (*callout.Users, error) {
	c := &Config{Configs: configs}
	var conf struct {
		metav1.TypeMeta `json:",inline"`
		KubeConfigFile  string `json:"kubeConfigFile"`
	}
	known := kinds{"apiserver.config.k8s.io/v1": "WebhookAdmissionConfiguration", "apiserver.config.k8s.io/v1alpha1": "WebhookAdmission"}
	if ok, err := c.config(plugin, known, &conf); !ok || err != nil || conf.KubeConfigFile == "" {
		return nil, err
	}
	if !filepath.IsAbs(conf.KubeConfigFile) {
		return nil, badConfig(plugin, fmt.Errorf("kubeConfigFile must be an absolute file path"))
	}
	users, err := callout.OpenUsers(conf.KubeConfigFile)
	if err != nil {
		return nil, badConfig(plugin, err)
	}
	return users, nil
}

// kinds are what a plugin's configuration may call itself.
type kinds map[string]string // version: kind

// config decodes a plugin's configuration into v; false if there is none.
func (c *Config) config(plugin string, known kinds, v any) (bool, error) {
	data := c.Configs[plugin]
	if len(data) == 0 {
		return false, nil
	}
	if known != nil {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(data, &meta); err != nil {
			return false, badConfig(plugin, err)
		}
		if kind, ok := known[meta.APIVersion]; !ok || kind != meta.Kind {
			return false, badConfig(plugin, fmt.Errorf("no kind %q is registered for version %q", meta.Kind, meta.APIVersion))
		}
	}
	if err := yaml.UnmarshalStrict(data, v); err != nil {
		return false, badConfig(plugin, err)
	}
	return true, nil
}
