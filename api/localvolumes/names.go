// Package localvolumes holds the names by which the built-in local
// provisioner and its part on each node know their volumes.
package localvolumes

const (
	// Provisioner is the name that storage classes give.
	Provisioner = "cox.dev/local"
	// FolderAnnotation is on a Node that offers local volumes: the folder
	// that holds them, an absolute path.
	FolderAnnotation = "cox.dev/local-volumes"
	// NodeLabel is on a volume: the name of the node that holds it, by which
	// that node selects its own.
	NodeLabel = "cox.dev/node"
	// Finalizer keeps a volume until its node has dealt with its directory.
	Finalizer = "cox.dev/local-volume"
	// Class is the name of the storage class that a cluster begins with.
	Class = "local"
)
