package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// Import reads the images of an OCI or docker tar, plain or compressed by gzip or zstd, unpacks them, and returns their
// names. Those that are there under the same names are replaced. They are kept until somebody removes them.
func (r *Runtime) Import(ctx context.Context, path string) ([]string, error) {
	return r.importFile(ctx, path, map[string]string{labelImageKept: "true"})
}

func (r *Runtime) importFile(ctx context.Context, path string, labels map[string]string) ([]string, error) {
	ctx = r.in(ctx)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := r.importTar(ctx, file, labels)
	if err != nil {
		return nil, fmt.Errorf("import images of %s: %w", path, err)
	}
	return names, nil
}

func (r *Runtime) importTar(ctx context.Context, tar io.Reader, labels map[string]string) (names []string, err error) {
	plain, err := compression.DecompressStream(tar)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	ctx, release, err := r.leased(ctx) // From reading to unpacking nothing may be collected.
	if err != nil {
		return nil, noRoom(err)
	}
	defer func() { err = noRoom(err); release(err) }()
	var nameless error
	name := func(ref string) string {
		full, err := fullName(ref)
		if err != nil || !strings.ContainsAny(ref, ":/@") {
			nameless = fmt.Errorf("%q is not a whole image name", ref)
			return ""
		}
		return full
	}
	found, err := r.client.Import(ctx, plain, containerd.WithImageRefTranslator(name), containerd.WithImageLabels(labels))
	if errors.Is(err, images.ErrEmptyWalk) {
		return nil, fmt.Errorf("the file has no image for this machine (%s)", platforms.DefaultString())
	}
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.Join(errors.New("the file names no image"), nameless)
	}
	names = make([]string, 0, len(found))
	for _, image := range found {
		if err := r.unpack(ctx, image); err != nil {
			return nil, err
		}
		names = append(names, image.Name)
	}
	return names, nil
}

// unpack makes an imported image ready to run, or removes its name: an image that can't run should not be found.
func (r *Runtime) unpack(ctx context.Context, image images.Image) error {
	err := containerd.NewImage(r.client, image).Unpack(ctx, r.snapshotter)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("unpack image %s: %w", image.Name, err)
	if undo := r.client.ImageService().Delete(context.WithoutCancel(ctx), image.Name); undo != nil && !errdefs.IsNotFound(undo) {
		err = errors.Join(err, undo)
	}
	return err
}
