package agent

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
)

// slowRegistry is a runtime whose pulls wait.
type slowRegistry struct {
	Runtime
	asked  []string
	answer chan struct{}
}

func (r *slowRegistry) Pull(_ context.Context, ref string, _ []Login, _ func(done, total int64)) (Image, error) {
	r.asked = append(r.asked, ref)
	<-r.answer
	return Image{Names: []string{ref}}, nil
}

// Pods that want the same image share one pull, by whatever name they call it; who asks with other logins does not.
func TestPullsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowRegistry{answer: make(chan struct{})}
		var told sync.Map // By pod UID.
		p := newPulls(r, func(uid string) { told.Store(uid, true) })
		p.begin(t.Context())
		wanted := map[string]string{"short": "nginx", "long": "docker.io/library/nginx:latest", "tagged": "nginx:latest"}
		for uid, ref := range wanted {
			if _, fresh := p.take(uid, "app", ref, nil, func(int64, int64) {}); !fresh {
				t.Errorf("pod %s has a pull of %s already", uid, ref)
			}
		}
		synctest.Wait()
		if len(r.asked) != 1 {
			t.Errorf("three pods of one image made the pulls %q", r.asked)
		}
		p.take("guest", "app", "nginx", []Login{{Username: "ann"}}, func(int64, int64) {})
		synctest.Wait()
		if len(r.asked) != 2 {
			t.Errorf("with another login, too, there are the pulls %q", r.asked)
		}
		close(r.answer)
		p.wait()
		for uid, ref := range wanted {
			if outcome, _ := p.take(uid, "app", ref, nil, nil); outcome == nil || outcome.err != nil {
				t.Errorf("pod %s got %+v of its pull", uid, outcome)
			}
			if _, ok := told.Load(uid); !ok {
				t.Errorf("pod %s was not told of the end of its pull", uid)
			}
		}
	})
}
