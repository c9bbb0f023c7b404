package runtime

import "testing"

func TestOnlyQuestionsAreBounded(t *testing.T) {
	for method, want := range map[string]bool{
		"/runtime.v1.RuntimeService/Version": true, "/runtime.v1.RuntimeService/Status": true,
		"/runtime.v1.RuntimeService/ListContainers": true, "/runtime.v1.RuntimeService/PodSandboxStatus": true,
		"/runtime.v1.RuntimeService/ContainerStats": true, "/runtime.v1.ImageService/ImageFsInfo": true,
		"/runtime.v1.ImageService/PullImage": false, "/runtime.v1.RuntimeService/StopContainer": false,
		"/runtime.v1.RuntimeService/ExecSync": false, "/runtime.v1.RuntimeService/RunPodSandbox": false,
		"/containerd.services.content.v1.Content/ListContent": false,
	} {
		if got := isQuestion(method); got != want {
			t.Errorf("%s: %v", method, got)
		}
	}
}
