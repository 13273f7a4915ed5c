package containerd

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"skiff/agent"
)

// signalShims sends all shims of the node a signal.
func (n *node) signalShims(s syscall.Signal) {
	n.t.Helper()
	for _, text := range n.shims() {
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = syscall.Kill(pid, s)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) execIn(ctx context.Context, id string) error {
	_, err := n.runtime.Exec(ctx, id, agent.ExecConfig{Command: []string{"true"}})
	return err
}

// Of a container whose shim does not answer nothing is known: it has not ended, and when the shim is back, it is what it was. It can be
// asked to stop, and killed and removed, without the shim.
func testSilentShim(t *testing.T, n *node) {
	config, other := n.start("silent"), n.start("beside")
	n.waitLog("silent", "stdout holding")
	n.waitLog("beside", "stdout holding")
	before := n.container(config.ID)
	n.signalShims(syscall.SIGSTOP)
	defer n.signalShims(syscall.SIGCONT)
	if c := n.container(config.ID); c == nil || c.State != agent.Silent || !c.Started.Equal(before.Started) {
		t.Errorf("with its shim stopped the container is %+v", c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), taskTime/2)
	defer cancel()
	for doing, err := range map[string]error{
		"exec":   n.execIn(ctx, config.ID),
		"attach": n.runtime.Attach(ctx, config.ID, agent.Streams{}),
		"resize": n.runtime.Resize(ctx, config.ID, agent.Resources{CPUShares: 512}, nil),
	} {
		if !errors.Is(err, errSilent) || ctx.Err() != nil {
			t.Errorf("%s with the shim stopped: %v, want soon %q", doing, err, errSilent)
		}
	}
	n.signalShims(syscall.SIGCONT)
	if c := n.container(config.ID); c == nil || c.State != agent.Running {
		t.Errorf("with its shim back the container is %+v", c)
	}

	n.signalShims(syscall.SIGSTOP)
	if err := n.runtime.Signal(t.Context(), config.ID, false); err != nil {
		t.Errorf("ask the container to stop: %v", err)
	}
	n.eventually("the container ends", func() bool { return len(n.processesOf(config.ID)) == 0 })
	if c := n.container(config.ID); c == nil || c.State != agent.Silent {
		t.Errorf("nobody knows how it ended, and yet the container is %+v", c)
	}
	n.signalShims(syscall.SIGCONT)
	if c := n.waitExited(config.ID); c.ExitCode != 0 || c.Unknown {
		t.Errorf("the container has ended with %+v", c)
	}

	n.signalShims(syscall.SIGSTOP)
	if err := n.runtime.Signal(t.Context(), other.ID, true); err != nil {
		t.Errorf("kill the container: %v", err)
	}
	if c := n.waitExited(other.ID); c.ExitCode != 137 {
		t.Errorf("the killed container is %+v", c)
	}
	for _, id := range []string{other.ID, config.ID} {
		n.eventually("the container can be removed", func() bool { return n.runtime.Remove(t.Context(), id) == nil })
	}
	if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
	if shims := n.shims(); len(shims) > 0 {
		t.Errorf("the shims %v are left", shims)
	}
}

// A shim that answers no more is not killed as long as one of its containers may run.
func testSilentShimOfTwo(t *testing.T, n *node) {
	killed, lives := n.start("killed"), n.start("lives")
	shims := n.shims()
	n.signalShims(syscall.SIGSTOP)
	defer n.signalShims(syscall.SIGCONT)
	if err := n.runtime.Signal(t.Context(), killed.ID, true); err != nil {
		t.Errorf("kill the container: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*shimTime)
	defer cancel()
	if err := n.runtime.Remove(ctx, killed.ID); err == nil {
		t.Error("a container was removed with its shim silent and another container alive")
	}
	if c := n.container(lives.ID); c == nil || c.State != agent.Silent {
		t.Errorf("the other container is %+v", c)
	}
	if now := n.shims(); !slices.Equal(now, shims) {
		t.Errorf("the shims were %v and are %v", shims, now)
	}
	n.signalShims(syscall.SIGCONT)
	n.eventually("the killed one can be removed", func() bool { return n.runtime.Remove(t.Context(), killed.ID) == nil })
	if c := n.container(lives.ID); c == nil || c.State != agent.Running {
		t.Errorf("the other container is %+v", c)
	}
	n.end(lives.ID)
}
