package containerd

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// The programs that make containers of what containerd has prepared. crun takes half the time of runc, but is not everywhere, and older
// ones do not work everywhere: 1.8 not with cgroups that are partly v1, partly v2.
const (
	crun = "crun"
	runc = "runc"
)

const (
	trialID      = "trial" // No pod has a UID like this.
	trialTimeout = 10 * time.Second
)

// ChooseProgram finds out whether crun works here, to make the containers to come; until then it is runc. It must return before the
// first Start. The containers that are there keep theirs: containerd remembers it of each, and those of one pod need not be all of the
// same.
func (r *Runtime) ChooseProgram(ctx context.Context) { r.program = r.chooseProgram(r.in(ctx)) }

// Handlers implements [agent.Runtime]: runc, and crun where it works. Each is called as the program is.
func (r *Runtime) Handlers() []string {
	if r.program == runc {
		return []string{runc}
	}
	return []string{r.program, runc}
}

// programFor is what makes the containers of a handler.
func (r *Runtime) programFor(handler string) (string, error) {
	if handler == "" {
		return r.program, nil
	}
	if !slices.Contains(r.Handlers(), handler) {
		return "", fmt.Errorf("no runtime for %q is configured", handler)
	}
	return handler, nil
}

func (r *Runtime) chooseProgram(ctx context.Context) string {
	if err := r.endTrial(ctx); err != nil { // Of an agent that was killed.
		r.log.Error("what is left of a trial of crun can't be removed", "err", err)
	}
	path, err := exec.LookPath(crun)
	if err != nil {
		r.log.Info("runc makes the containers")
		return runc
	}
	if err := r.try(ctx, crun); err != nil {
		r.log.Warn("runc makes the containers: crun is here, but does not work", "path", path, "err", err)
		return runc
	}
	r.log.Info("crun makes the containers", "path", path)
	return crun
}

// try has the program make a container that does nothing, with namespaces, cgroups and a seccomp filter, and removes it.
func (r *Runtime) try(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	trial := agent.ContainerConfig{Pod: agent.PodRef{UID: trialID}, CgroupParent: r.trialCgroup()}
	_, err := r.pause(ctx, trial, program)
	return errors.Join(err, r.endTrial(ctx))
}

func (r *Runtime) endTrial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return errors.Join(r.endPause(ctx, trialID), cgroup.Host().Remove(r.trialCgroup()), endShim(r.shimSocket(trialID)))
}

func (r *Runtime) trialCgroup() string { return r.config.CgroupRoot + "/" + trialID }
