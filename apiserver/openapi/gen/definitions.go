package main

import "k8s.io/kube-openapi/pkg/common"

// definitions are the schemas that openapi-gen makes of the Go types. They are
// 1.4 MB of source that only this program ever needs, so they are not in the
// tree: the program starts itself again with them laid over this file.
var definitions common.GetOpenAPIDefinitions
