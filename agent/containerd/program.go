package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

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
func (r *Runtime) ChooseProgram(ctx context.Context) {
	r.program = r.chooseProgram(r.in(ctx))
	r.handlers = sync.OnceValue(r.describePrograms)
	go r.handlers() // So that nobody waits for it.
}

// Handlers implements [agent.Runtime]: runc, and crun where it works. Each is called as the program is.
func (r *Runtime) Handlers() []agent.Handler { return r.handlers() }

// programs are what can make containers, first what does.
func (r *Runtime) programs() []string {
	if r.program == runc {
		return []string{runc}
	}
	return []string{r.program, runc}
}

func (r *Runtime) describePrograms() (all []agent.Handler) {
	recursive, users := mountsRecursively(), mapsOwners()
	for _, program := range r.programs() {
		options, err := mountOptions(program)
		if err != nil {
			r.log.Debug("what a program can do is not known", "program", program, "err", err)
		}
		all = append(all, agent.Handler{Name: program, RecursiveReadOnly: recursive && slices.Contains(options, "rro"), UserNamespaces: users})
	}
	return all
}

// mountOptions asks a program which ones it knows. Old ones do not say.
// https://github.com/opencontainers/runtime-spec/blob/main/features.md
func mountOptions(program string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	text, err := exec.CommandContext(ctx, program, "features").Output()
	if err != nil {
		return nil, err
	}
	var said features.Features
	err = json.Unmarshal(text, &said)
	return said.MountOptions, err
}

// mountsRecursively says whether the kernel has the call that changes a mount with all that is below it: Linux 5.12.
func mountsRecursively() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) != unix.ENOSYS
}

// mapsOwners says whether the kernel lets users have namespaces, and can show a pod's own users all files that are theirs: those of a
// tmpfs, too, from Linux 6.3 on.
func mapsOwners() bool {
	var host unix.Utsname
	if unix.Uname(&host) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(host.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	most, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	return err == nil && strings.TrimSpace(string(most)) != "0" && (major > 6 || major == 6 && minor >= 3)
}

// programFor is what makes the containers of a handler.
func (r *Runtime) programFor(handler string) (string, error) {
	if handler == "" {
		return r.program, nil
	}
	if !slices.Contains(r.programs(), handler) {
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
