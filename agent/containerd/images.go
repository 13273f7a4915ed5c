package containerd

import (
	"context"
	"errors"
	"fmt"
	"sort"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"skiff/agent"
)

// fullName completes an image's name by docker's rules: "nginx" is "docker.io/library/nginx:latest". A name with both a
// tag and a digest means the digest.
func fullName(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", ref, err)
	}
	return named.String(), nil
}

// Image returns the local image that ref names.
func (r *Runtime) Image(ctx context.Context, ref string) (agent.Image, error) {
	ctx = r.in(ctx)
	image, err := r.find(ctx, ref)
	if err != nil {
		return agent.Image{}, err
	}
	return r.describeImage(ctx, image)
}

// find looks ref up. An image that came under a tag is found by its digest too.
func (r *Runtime) find(ctx context.Context, ref string) (containerd.Image, error) {
	name, err := fullName(ref)
	if err != nil {
		return nil, err
	}
	image, err := r.client.GetImage(ctx, name)
	if !errdefs.IsNotFound(err) {
		return image, wrapImage(name, err)
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, agent.ErrNoImage)
	}
	same, err := r.client.ListImages(ctx, "target.digest=="+digested.Digest().String())
	if err != nil {
		return nil, wrapImage(name, err)
	}
	for _, image := range same {
		if other, err := reference.ParseNormalizedNamed(image.Name()); err == nil && other.Name() == named.Name() {
			return image, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, agent.ErrNoImage)
}

func wrapImage(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look up image %s: %w", name, err)
}

// Images lists the local images, each once with all of its names.
func (r *Runtime) Images(ctx context.Context) ([]agent.Image, error) {
	ctx = r.in(ctx)
	all, err := r.client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byDigest, here := map[string]*agent.Image{}, map[digest.Digest]bool{}
	for _, image := range all {
		here[image.Target().Digest] = true
		if known := byDigest[image.Target().Digest.String()]; known != nil {
			known.Names = append(known.Names, image.Name())
			known.Kept = known.Kept || isKept(image)
			continue
		}
		described, err := r.describeImage(ctx, image)
		if errdefs.IsNotFound(err) || errors.Is(err, images.ErrEmptyWalk) {
			continue // Deleted meanwhile, or not for this machine.
		}
		if err != nil {
			return nil, err
		}
		byDigest[described.Digest] = &described
	}
	r.abouts.keep(here)
	list := make([]agent.Image, 0, len(byDigest))
	for _, image := range byDigest {
		sort.Strings(image.Names)
		list = append(list, *image)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Names[0] < list[j].Names[0] })
	return list, nil
}

func (r *Runtime) describeImage(ctx context.Context, image containerd.Image) (agent.Image, error) {
	about, err := r.about(ctx, image)
	if err != nil {
		return agent.Image{}, err
	}
	return agent.Image{
		Names: []string{image.Name()}, Digest: image.Target().Digest.String(), Size: about.size, User: about.config.User,
		Created: image.Metadata().UpdatedAt, Kept: isKept(image),
	}, nil
}

// isKept says that an image was imported: from a file in the folder, or by hand.
func isKept(image containerd.Image) bool {
	labels := image.Labels()
	return labels[labelImageFile] != "" || labels[labelImageKept] != ""
}

// RemoveImage takes a full name off an image. Its layers go with the last name that needs them.
func (r *Runtime) RemoveImage(ctx context.Context, name string) error {
	err := r.client.ImageService().Delete(r.in(ctx), name, images.SynchronousDelete())
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}
