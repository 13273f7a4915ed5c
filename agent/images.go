package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
)

// progressEvery is how often at most an Event tells how far a pull is.
const progressEvery = 10 * time.Second

// image gets the image that a container is to start from, as its imagePullPolicy says. Not ok means that it is not here: either it
// is on its way, and the pod will be looked at again, or the container has trouble.
func (a *Agent) image(ctx context.Context, pod *v1.Pod, c *v1.Container, m *memory) (image Image, ok bool) {
	say := func(kind, reason, format string, args ...any) {
		a.tell(pod, c.Name, kind, reason, fmt.Sprintf(format, args...))
	}
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		m.retry(c.Name, reasonInvalidImage, fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err), time.Now(), a.MaxRestartBackoff)
		return Image{}, false
	}
	local, err := a.runtime.Image(ctx, c.Image)
	here := err == nil
	if err != nil && !errors.Is(err, ErrNoImage) {
		m.retry(c.Name, reasonInspect, fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err), time.Now(), a.MaxRestartBackoff)
		return Image{}, false
	}
	switch policy := pullPolicy(c); {
	case here && policy != v1.PullAlways:
		if outcome := a.pulls.finished(string(pod.UID), c.Name, c.Image); outcome != nil && outcome.err == nil {
			say(v1.EventTypeNormal, "Pulled", "%s", outcome.success(c.Image))
			return outcome.image, true
		}
		say(v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return local, true
	case policy == v1.PullNever:
		m.trouble[c.Name] = trouble{reason: reasonNeverPull, message: fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image), at: time.Now()}
		return Image{}, false
	}
	if here && a.pulls.silent(c.Image) { // To ask again would hold up every pod of a machine without a network.
		say(v1.EventTypeNormal, "Pulled", "Container image %q already present on machine; its registry did not answer a moment ago", c.Image)
		return local, true
	}
	outcome, fresh := a.pulls.take(string(pod.UID), c.Name, c.Image, a.logins(ctx, pod, c.Image), a.progress(pod, c))
	if fresh {
		say(v1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	}
	switch {
	case outcome == nil:
		return Image{}, false
	case outcome.err == nil:
		say(v1.EventTypeNormal, "Pulled", "%s", outcome.success(c.Image))
		return outcome.image, true
	case here && errors.Is(outcome.err, ErrNoRegistry):
		say(v1.EventTypeWarning, "Pulled", "Container image %q could not be looked up in its registry; the one on this machine is used: %v", c.Image, outcome.err)
		return local, true
	}
	m.retry(c.Name, reasonPull, fmt.Sprintf("Failed to pull image %q: %v", c.Image, outcome.err), time.Now(), a.MaxRestartBackoff)
	return Image{}, false
}

// progress tells in Events how far a long pull is.
func (a *Agent) progress(pod *v1.Pod, c *v1.Container) func(done, total int64) {
	last := time.Now()
	return func(done, total int64) {
		if time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		const mega = 1e6
		a.tell(pod, c.Name, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q: %.1f of %.1f MB", c.Image, float64(done)/mega, float64(total)/mega))
	}
}

// pullPolicy is the container's or, where the API server gave none, the one that it would have given.
func pullPolicy(c *v1.Container) v1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	named, err := reference.ParseNormalizedNamed(c.Image)
	if err != nil {
		return v1.PullIfNotPresent
	}
	if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok && tagged.Tag() == "latest" {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}
