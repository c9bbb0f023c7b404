package images

import (
	"context"
	"errors"
	"fmt"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service is the CRI image service of our containerd. What a registry sent
// instead of the content it promised is thrown away with the failed pull;
// containerd by itself keeps it as a download to go on with, and so fails again
// and again for as long as it keeps it.
func Service(conn *grpc.ClientConn) runtimeapi.ImageServiceClient {
	return &service{runtimeapi.NewImageServiceClient(conn), conn}
}

type service struct {
	runtimeapi.ImageServiceClient
	conn *grpc.ClientConn
}

// PullImage pulls an image.
func (s *service) PullImage(ctx context.Context, in *runtimeapi.PullImageRequest, opts ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	res, err := s.ImageServiceClient.PullImage(ctx, in, opts...)
	if err == nil {
		return res, nil
	}
	if download, ok := wrongContent(err); ok {
		if derr := s.drop(context.WithoutCancel(ctx), download); derr != nil {
			err = errors.Join(err, derr)
		}
	}
	return nil, err
}

// wrongContent says which download of a failed pull has not the digest that
// was promised. The error crosses CRI as text only.
func wrongContent(err error) (download string, ok bool) {
	if !strings.Contains(err.Error(), "unexpected commit digest") {
		return "", false
	}
	_, rest, ok := strings.Cut(err.Error(), `failed commit on ref "`)
	if !ok {
		return "", false
	}
	download, _, ok = strings.Cut(rest, `"`)
	return download, ok
}

func (s *service) drop(ctx context.Context, download string) error {
	c, err := containerd.NewWithConn(s.conn, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return err
	}
	if err := c.ContentStore().Abort(namespaces.WithNamespace(ctx, namespace), download); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("throw away the download %s: %w", download, err)
	}
	return nil
}
