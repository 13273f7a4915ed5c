package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// about is what an image says of itself. It hangs on the image's digest alone, and never changes.
type about struct {
	config ocispec.ImageConfig
	layers string // The snapshot that a container's own begins with.
	size   int64  // Bytes, compressed.
}

// abouts remembers what was read of the images here: to read it takes the daemon a dozen answers, and each start asks.
type abouts struct {
	mu       sync.Mutex
	byDigest map[digest.Digest]about
}

// about reads what an image says of itself.
func (r *Runtime) about(ctx context.Context, image containerd.Image) (about, error) {
	key := image.Target().Digest
	r.abouts.mu.Lock()
	known, ok := r.abouts.byDigest[key]
	r.abouts.mu.Unlock()
	if ok {
		return known, nil
	}
	a, err := readAbout(ctx, image)
	if err != nil {
		return about{}, err
	}
	r.abouts.mu.Lock()
	defer r.abouts.mu.Unlock()
	r.abouts.byDigest[key] = a
	return a, nil
}

func readAbout(ctx context.Context, image containerd.Image) (a about, err error) {
	desc, err := image.Config(ctx)
	if err != nil {
		return a, fmt.Errorf("read the configuration of image %s: %w", image.Name(), err)
	}
	text, err := content.ReadBlob(ctx, image.ContentStore(), desc)
	if err != nil {
		return a, fmt.Errorf("read the configuration of image %s: %w", image.Name(), err)
	}
	var said ocispec.Image
	if err := json.Unmarshal(text, &said); err != nil {
		return a, fmt.Errorf("read the configuration of image %s: %w", image.Name(), err)
	}
	a.config, a.layers = said.Config, identity.ChainID(said.RootFS.DiffIDs).String()
	if a.size, err = image.Size(ctx); err != nil {
		return a, fmt.Errorf("size of image %s: %w", image.Name(), err)
	}
	return a, nil
}

// keep forgets the images that are not among these.
func (a *abouts) keep(here map[digest.Digest]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.byDigest, func(d digest.Digest, _ about) bool { return !here[d] })
}
