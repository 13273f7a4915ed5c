package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
)

// pullsAtOnce bounds how many images are fetched at the same time.
const pullsAtOnce = 3

// pullPatience is how long a pull may make no progress. A registry that cannot be reached must not hold a pod up for
// ever, least of all one whose image is already here.
const pullPatience = 30 * time.Second

// pulls fetches images in the background: a pod's worker must stay free to end the pod meanwhile. Pods that want the same
// image share one pull.
type pulls struct {
	runtime Runtime
	done    func(uid string)
	ctx     context.Context
	wg      sync.WaitGroup
	slots   chan struct{}

	mu    sync.Mutex
	calls map[string]*pull            // By image name and logins: under way.
	mine  map[string]map[string]*pull // By pod UID, then container: asked for and not yet taken.
	mute  map[string]time.Time        // By registry: when it did not answer.
}

// pull is one fetch and its outcome.
type pull struct {
	ref      string
	logins   []Login
	key      string
	uids     map[string]bool
	progress func(done, total int64)
	asked    time.Time
	begun    time.Time
	ended    time.Time // Zero while it is under way.
	image    Image
	err      error
}

// success tells of a pull that went well, to one who called the image so.
func (p *pull) success(image string) string {
	return fmt.Sprintf("Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.", image,
		p.ended.Sub(p.begun).Truncate(time.Millisecond), p.ended.Sub(p.asked).Truncate(time.Millisecond), p.image.Size)
}

func newPulls(runtime Runtime, done func(uid string)) *pulls {
	return &pulls{
		runtime: runtime, done: done, slots: make(chan struct{}, pullsAtOnce),
		calls: map[string]*pull{}, mine: map[string]map[string]*pull{}, mute: map[string]time.Time{},
	}
}

// begin sets when all pulls end; to be called before any pod asks.
func (p *pulls) begin(ctx context.Context) { p.ctx = ctx }

// wait returns when all pulls have ended.
func (p *pulls) wait() { p.wg.Wait() }

// take returns the outcome of the container's pull. Without one under way it begins one, and says so by fresh; while it is
// under way, it returns nil. An outcome is taken once.
func (p *pulls) take(uid, container, ref string, logins []Login, progress func(done, total int64)) (outcome *pull, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%s %q", fullName(ref), logins) // Who may not pull it must not fail, nor serve, those who may.
	if call := p.mine[uid][container]; call != nil && call.key == key {
		if call.ended.IsZero() {
			return nil, false
		}
		delete(p.mine[uid], container)
		return call, false
	}
	call := p.calls[key]
	if call == nil {
		call = &pull{ref: ref, logins: logins, key: key, uids: map[string]bool{}, asked: time.Now(), progress: progress}
		p.calls[key] = call
		p.wg.Go(func() { p.fetch(call) })
	}
	call.uids[uid] = true
	if p.mine[uid] == nil {
		p.mine[uid] = map[string]*pull{}
	}
	p.mine[uid][container] = call
	return nil, true
}

// finished takes the outcome of the container's pull if it has come.
func (p *pulls) finished(uid, container, ref string) *pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	call := p.mine[uid][container]
	if call == nil || call.ended.IsZero() || fullName(call.ref) != fullName(ref) {
		return nil
	}
	delete(p.mine[uid], container)
	return call
}

// forget drops what a pod has not taken.
func (p *pulls) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mine, uid)
}

// silentFor is how long a registry that did not answer is not asked again for an image that is here.
const silentFor = time.Minute

// silent tells whether the image's registry did not answer a moment ago.
func (p *pulls) silent(ref string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.mute[registryOf(ref)]
	return ok && time.Since(at) < silentFor
}

// fullName is the same for all names of an image.
func fullName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

func registryOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

func (p *pulls) fetch(call *pull) {
	var image Image
	var err error
	begun := time.Now()
	select {
	case p.slots <- struct{}{}:
		begun = time.Now()
		image, err = p.patiently(call)
		<-p.slots
	case <-p.ctx.Done():
		err = p.ctx.Err()
	}
	p.mu.Lock()
	call.image, call.err, call.begun, call.ended = image, err, begun, time.Now()
	delete(p.calls, call.key)
	if registry := registryOf(call.ref); errors.Is(err, ErrNoRegistry) {
		p.mute[registry] = call.ended
	} else {
		delete(p.mute, registry)
	}
	p.mu.Unlock()
	for uid := range call.uids { // Complete: take adds only to calls that are in p.calls.
		p.done(uid)
	}
}

// patiently pulls as long as there is progress.
func (p *pulls) patiently(call *pull) (Image, error) {
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	stuck := time.AfterFunc(pullPatience, func() { cancel(fmt.Errorf("%w: no progress for %s", ErrNoRegistry, pullPatience)) })
	defer stuck.Stop()
	last := int64(-1)
	image, err := p.runtime.Pull(ctx, call.ref, call.logins, func(done, total int64) {
		switch {
		case total > 0 && done >= total:
			stuck.Stop() // The registry has done its part; unpacking a large layer takes its time.
		case done != last:
			stuck.Reset(pullPatience)
		}
		last = done
		call.progress(done, total)
	})
	if err != nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return image, err
}
