package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"skiff/agent"
)

const (
	pullTimeout   = time.Hour
	dialTimeout   = 10 * time.Second
	headerTimeout = 30 * time.Second
	progressEvery = 300 * time.Millisecond
)

// Pull fetches and unpacks ref, with one login after the other.
func (r *Runtime) Pull(ctx context.Context, ref string, logins []agent.Login, progress func(done, total int64)) (image agent.Image, err error) {
	name, err := fullName(ref)
	if err != nil {
		return agent.Image{}, err
	}
	ctx, cancel := context.WithTimeout(r.in(ctx), pullTimeout)
	defer cancel()
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if len(logins) == 0 {
		logins = []agent.Login{{}}
	}
	var errs []error
	for _, login := range logins {
		if image, err = r.fetch(ctx, name, login, progress); err == nil {
			return image, nil
		}
		if ctx.Err() != nil {
			return agent.Image{}, fmt.Errorf("pull image %s: %w", name, ctx.Err())
		}
		errs = append(errs, err)
	}
	return agent.Image{}, errors.Join(errs...)
}

// fetch pulls and unpacks an image.
func (r *Runtime) fetch(ctx context.Context, name string, login agent.Login, progress func(done, total int64)) (_ agent.Image, err error) {
	ctx, release, err := r.leased(ctx)
	if err != nil {
		return agent.Image{}, fmt.Errorf("pull image %s: %w", name, noRoom(err))
	}
	defer func() { release(err) }()
	blobs := &blobs{wanted: map[string]ocispec.Descriptor{}}
	stop := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { r.watchProgress(ctx, blobs, progress, stop) })
	image, err := r.client.Pull(ctx, name,
		containerd.WithPullUnpack, containerd.WithPullSnapshotter(r.snapshotter), containerd.WithResolver(r.resolver(ctx, login)),
		containerd.WithImageHandler(images.HandlerFunc(blobs.add)))
	close(stop)
	reporter.Wait()
	err = noRoom(err)
	switch {
	case errdefs.IsNotFound(err):
		return agent.Image{}, fmt.Errorf("pull image %s: %w: %w", name, agent.ErrNoImage, err)
	case unanswered(err):
		return agent.Image{}, fmt.Errorf("pull image %s: %w: %w", name, agent.ErrNoRegistry, err)
	case err != nil:
		return agent.Image{}, fmt.Errorf("pull image %s: %w", name, err)
	}
	progress(blobs.total(), blobs.total())
	return r.describeImage(ctx, image)
}

// unanswered tells whether it was the network that failed, or a server that is not well, and not the registry's word.
func unanswered(err error) bool {
	var network net.Error
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &network) || errors.As(err, &status) && status.StatusCode >= http.StatusInternalServerError
}

// resolver reads hosts.toml anew for each pull, so that a change needs no restart. The login is for the registry that the image's
// name says, and for whoever hosts.toml lets stand for it, as it is for containerd under a kubelet: each that asks for one gets it.
func (r *Runtime) resolver(ctx context.Context, login agent.Login) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:      config.HostDirFromRoot(r.config.Registries),
		UpdateClient: boundClient,
		Credentials:  func(string) (user, secret string, err error) { return login.Username, login.Password, nil },
	})})
}

// boundClient makes a registry that does not answer an error in seconds.
func boundClient(client *http.Client) error {
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		return errors.New("registry client has no plain transport")
	}
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	transport.ResponseHeaderTimeout = headerTimeout
	return nil
}

// blobs collects what an image is made of, as the pull finds out: by the name that the content store knows it by on its way.
type blobs struct {
	mu     sync.Mutex
	wanted map[string]ocispec.Descriptor
}

func (b *blobs) add(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted[remotes.MakeRefKey(ctx, desc)] = desc
	return nil, nil
}

func (b *blobs) all() map[string]ocispec.Descriptor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.wanted)
}

func (b *blobs) total() (sum int64) {
	for _, desc := range b.all() {
		sum += desc.Size
	}
	return sum
}

// watchProgress tells now and then how far the pull is. A failing question is skipped: the pull itself will say why.
func (r *Runtime) watchProgress(ctx context.Context, b *blobs, progress func(done, total int64), stop <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if done, err := r.fetched(ctx, b); err == nil {
			progress(done, b.total())
		}
	}
}

// fetched sums up what of the blobs is here.
func (r *Runtime) fetched(ctx context.Context, b *blobs) (sum int64, err error) {
	store := r.client.ContentStore()
	active, err := store.ListStatuses(ctx)
	if err != nil {
		return 0, err
	}
	offsets := map[string]int64{}
	for _, s := range active {
		offsets[s.Ref] = s.Offset
	}
	for ref, desc := range b.all() {
		if offset, ok := offsets[ref]; ok {
			sum += offset
		} else if info, err := store.Info(ctx, desc.Digest); err == nil {
			sum += info.Size
		}
	}
	return sum, nil
}
