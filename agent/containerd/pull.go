package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"
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
	maxPulls      = 3 // At the same time; others wait.
	pullTimeout   = time.Hour
	dialTimeout   = 10 * time.Second
	headerTimeout = 30 * time.Second
	progressEvery = 300 * time.Millisecond
)

// pulls holds what is being pulled, so that pods that want the same image share one pull.
type pulls struct {
	slots chan struct{}

	mu      sync.Mutex
	running map[string]*pull
}

// pull is one image on its way. It is given up when nobody waits for it any more.
type pull struct {
	cancel  context.CancelFunc
	done    chan struct{} // Closed when image and err are set.
	image   agent.Image
	err     error
	waiting int // Guarded by pulls.mu.

	mu       sync.Mutex
	progress []func(done, total int64)
}

// Pull fetches and unpacks ref, or joins the pull of it that is under way.
func (r *Runtime) Pull(ctx context.Context, ref string, logins []agent.Login, progress func(done, total int64)) (agent.Image, error) {
	name, err := fullName(ref)
	if err != nil {
		return agent.Image{}, err
	}
	key := fmt.Sprintf("%s %q", name, logins)
	p := r.join(key, name, logins, progress)
	defer r.leave(key, p)
	select {
	case <-p.done:
		return p.image, p.err
	case <-ctx.Done():
		return agent.Image{}, fmt.Errorf("pull image %s: %w", name, ctx.Err())
	}
}

func (r *Runtime) join(key, name string, logins []agent.Login, progress func(done, total int64)) *pull {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	p := r.pulls.running[key]
	if p == nil {
		ctx, cancel := context.WithTimeout(context.Background(), pullTimeout)
		p = &pull{cancel: cancel, done: make(chan struct{})}
		r.pulls.running[key] = p
		go func() {
			p.image, p.err = r.pull(r.in(ctx), name, logins, p)
			close(p.done)
		}()
	}
	p.waiting++
	if progress != nil {
		p.mu.Lock()
		p.progress = append(p.progress, progress)
		p.mu.Unlock()
	}
	return p
}

func (r *Runtime) leave(key string, p *pull) {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	p.waiting--
	ended := false
	select {
	case <-p.done:
		ended = true
	default:
	}
	if p.waiting == 0 || ended {
		p.cancel()
		if r.pulls.running[key] == p {
			delete(r.pulls.running, key)
		}
	}
}

func (p *pull) report(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.progress {
		f(done, total)
	}
}

// pull does the work, with one login after the other.
func (r *Runtime) pull(ctx context.Context, name string, logins []agent.Login, p *pull) (image agent.Image, err error) {
	select {
	case r.pulls.slots <- struct{}{}:
		defer func() { <-r.pulls.slots }()
	case <-ctx.Done():
		return agent.Image{}, ctx.Err()
	}
	if len(logins) == 0 {
		logins = []agent.Login{{}}
	}
	var errs []error
	for _, login := range logins {
		if image, err = r.fetch(ctx, name, login, p); err == nil || ctx.Err() != nil {
			return image, err
		}
		errs = append(errs, err)
	}
	return image, errors.Join(errs...)
}

// fetch pulls and unpacks an image.
func (r *Runtime) fetch(ctx context.Context, name string, login agent.Login, p *pull) (_ agent.Image, err error) {
	ctx, release, err := r.leased(ctx)
	if err != nil {
		return agent.Image{}, fmt.Errorf("pull image %s: %w", name, noRoom(err))
	}
	defer func() { release(err) }()
	blobs := &blobs{wanted: map[string]ocispec.Descriptor{}}
	stop := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { r.watchProgress(ctx, blobs, p, stop) })
	image, err := r.client.Pull(ctx, name,
		containerd.WithPullUnpack, containerd.WithPullSnapshotter(r.snapshotter), containerd.WithResolver(r.resolver(ctx, name, login)),
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
	p.report(blobs.total(), blobs.total())
	return r.describeImage(ctx, image)
}

// unanswered tells whether it was the network that failed, or a server that is not well, and not the registry's word.
func unanswered(err error) bool {
	var network net.Error
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &network) || errors.As(err, &status) && status.StatusCode >= http.StatusInternalServerError
}

// resolver reads hosts.toml anew for each pull, so that a change needs no restart. The login is for the registry that the image's
// name says, and for no mirror.
func (r *Runtime) resolver(ctx context.Context, name string, login agent.Login) remotes.Resolver {
	registry, _, _ := strings.Cut(name, "/")
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:      config.HostDirFromRoot(r.config.Registries),
		UpdateClient: boundClient,
		Credentials: func(host string) (user, secret string, err error) {
			if host == registry || registry == "docker.io" && host == "registry-1.docker.io" {
				return login.Username, login.Password, nil
			}
			return "", "", nil
		},
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
func (r *Runtime) watchProgress(ctx context.Context, b *blobs, p *pull, stop <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if done, err := r.fetched(ctx, b); err == nil {
			p.report(done, b.total())
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
