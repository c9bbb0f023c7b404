package main

import (
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// gitVersion is what the API server and the kubelet report: the Kubernetes
// version whose API this is.
const gitVersion = "v1.36.2+cox"

func versionInfo() version.Info {
	return version.Info{
		Major: "1", Minor: "36", GitVersion: gitVersion, GitTreeState: "clean",
		EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
