package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// hookKind says which of a container's two hooks it is, as Events spell it.
type hookKind string

const (
	postStart hookKind = "PostStart"
	preStop   hookKind = "PreStop"
)

// hookRun is how far a container's hook is.
type hookRun struct {
	running bool
	failed  bool
	why     string // It failed.
}

// hookOf names one hook of one container.
type hookOf struct {
	kind hookKind
	id   string
}

// hooks runs containers' hooks in the background: a pod's worker must stay free to look at the pod meanwhile.
type hooks struct {
	checker *checker
	changed func(uid string)
	tell    func(pod *v1.Pod, container, kind, reason, message string)
	ctx     context.Context
	wg      sync.WaitGroup

	mu   sync.Mutex
	pods map[string]map[hookOf]*hook // By pod UID.
}

type hook struct {
	hookRun
	stop context.CancelFunc
}

func newHooks(checker *checker, changed func(uid string), tell func(pod *v1.Pod, container, kind, reason, message string)) *hooks {
	return &hooks{checker: checker, changed: changed, tell: tell, pods: map[string]map[hookOf]*hook{}}
}

// begin sets when all hooks end; to be called before any pod asks.
func (h *hooks) begin(ctx context.Context) { h.ctx = ctx }

// wait returns when all hooks have ended.
func (h *hooks) wait() { h.wg.Wait() }

// handler is what the container's hook does, nil if it has none.
func (kind hookKind) handler(c *v1.Container) *v1.LifecycleHandler {
	switch {
	case c == nil || c.Lifecycle == nil:
		return nil
	case kind == postStart:
		return c.Lifecycle.PostStart
	}
	return c.Lifecycle.PreStop
}

// start runs a hook, if the container has one.
func (h *hooks) start(pod *v1.Pod, kind hookKind, t target) {
	handler := kind.handler(t.container)
	if handler == nil {
		return
	}
	ctx, stop := context.WithCancel(h.ctx)
	run := &hook{hookRun: hookRun{running: true}, stop: stop}
	uid := string(pod.UID)
	h.mu.Lock()
	if h.pods[uid] == nil {
		h.pods[uid] = map[hookOf]*hook{}
	}
	h.pods[uid][hookOf{kind, t.id}] = run
	h.mu.Unlock()
	h.wg.Go(func() {
		defer stop()
		err := h.checker.hook(ctx, t, handler)
		if err != nil && ctx.Err() == nil {
			slog.Info("a hook failed", "hook", kind, "pod", pod.Namespace+"/"+pod.Name, "container", t.container.Name, "err", err)
			h.tell(pod, t.container.Name, v1.EventTypeWarning, "Failed"+string(kind)+"Hook", string(kind)+"Hook failed")
		}
		h.mu.Lock()
		run.running, run.failed = false, err != nil
		if err != nil {
			run.why = err.Error()
		}
		h.mu.Unlock()
		h.changed(uid)
	})
}

// runs says how far the hooks of a pod are. Those of containers that do not run any more are ended.
func (h *hooks) runs(uid string, containers []Container) map[hookOf]hookRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pods[uid]) == 0 {
		return nil
	}
	states := map[string]State{}
	for _, c := range containers {
		states[c.ID] = c.State
	}
	runs := map[hookOf]hookRun{}
	for of, run := range h.pods[uid] {
		state, there := states[of.id]
		if state != Running && state != Silent {
			run.stop()
		}
		if !there {
			delete(h.pods[uid], of)
			continue
		}
		runs[of] = run.hookRun
	}
	return runs
}

// forget ends the hooks of a pod.
func (h *hooks) forget(uid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, run := range h.pods[uid] {
		run.stop()
	}
	delete(h.pods, uid)
}

// hook does what a hook says and returns when it is done.
func (k *checker) hook(ctx context.Context, t target, handler *v1.LifecycleHandler) error {
	switch {
	case handler.Exec != nil:
		code, output, err := k.exec(ctx, t, handler.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("%q exited with %d: %s", strings.Join(handler.Exec.Command, " "), code, output)
		}
		return err
	case handler.HTTPGet != nil && k.pretend:
		return nil
	case handler.HTTPGet != nil:
		return k.hookHTTP(ctx, t, handler.HTTPGet)
	case handler.Sleep != nil:
		pause(ctx, time.Duration(handler.Sleep.Seconds)*time.Second)
		return nil
	}
	return errors.New("the hook has no action that can be run") // tcpSocket: the API keeps it, but says that it fails.
}

// hookHTTP tells a container by HTTP. Whatever it answers: it was told. Who says HTTPS and means HTTP is understood, as there were
// times when the scheme was not looked at.
func (k *checker) hookHTTP(ctx context.Context, t target, get *v1.HTTPGetAction) error {
	request, err := httpRequest(ctx, t, get, hookAgent)
	if err != nil {
		return err
	}
	response, err := k.client.Do(request)
	if errors.Is(err, http.ErrSchemeMismatch) {
		request = request.Clone(ctx)
		request.URL.Scheme = "http"
		request.Header.Del("Authorization")
		response, err = k.client.Do(request)
	}
	if err != nil {
		return err
	}
	return response.Body.Close()
}
