package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"skiff/agent"
)

// appArmorDefault is the profile of containers that ask for the runtime's.
const appArmorDefault = "skiff-default"

// appArmorRules are what it allows: all that a container's own namespaces and capabilities do, but for the ways by which root of a
// container could change the node's kernel. The same things are denied as by the profiles of Docker and containerd. With AppArmor 4 a
// distribution has profiles for the programs that make containers, and who has one is not unconfined, even if it may do everything.
const appArmorRules = `#include <tunables/global>

profile skiff-default flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer={/usr/bin/,/usr/sbin/,}{runc,crun},
  signal (send, receive) peer=skiff-default,
  ptrace (trace, tracedby, read, readby) peer=skiff-default,

  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`

// loadedAppArmor is the kernel's list of the profiles that it knows.
const loadedAppArmor = "/sys/kernel/security/apparmor/profiles"

// appArmorTimeout bounds the making of the profile.
const appArmorTimeout = 10 * time.Second

// appArmor is the name of the profile that a container gets, "" for none. The runtime's own is put into the kernel; any other the node's
// administrator has put there.
func (r *Runtime) appArmor(ctx context.Context, sec agent.Security) (string, error) {
	switch {
	case sec.AppArmor == "", sec.AppArmor == agent.AppArmorDefault && sec.Privileged:
		return "", nil
	case sec.AppArmor == agent.AppArmorDefault:
		return appArmorDefault, r.profile.ensure(appArmorProfiles, func() error { return r.loadAppArmor(ctx) })
	}
	list, err := appArmorProfiles()
	if err == nil && !hasProfile(list, sec.AppArmor) {
		err = fmt.Errorf("apparmor profile not found %s", sec.AppArmor)
	}
	return sec.AppArmor, err
}

func appArmorProfiles() (string, error) {
	list, err := os.ReadFile(loadedAppArmor)
	if err != nil {
		return "", fmt.Errorf("list the AppArmor profiles: %w", err)
	}
	return string(list), nil
}

// defaultProfile is what a process knows of its profile in the kernel.
type defaultProfile struct {
	mu     sync.Mutex
	loaded bool
}

// ensure sees that the kernel has the profile. The first time it is loaded even if it is there: that may be an older skiff's, and
// containers that run under that one get the new rules too.
func (p *defaultProfile) ensure(list func() (string, error), load func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	profiles, err := list()
	if err != nil || p.loaded && hasProfile(profiles, appArmorDefault) {
		return err
	}
	if err := load(); err != nil {
		return err
	}
	p.loaded = true
	return nil
}

// hasProfile looks for a name in the kernel's list: "name (enforce)", a line each.
func hasProfile(list, name string) bool {
	for line := range strings.Lines(list) {
		if at := strings.LastIndex(line, " ("); at >= 0 && line[:at] == name {
			return true
		}
	}
	return false
}

func (r *Runtime) loadAppArmor(ctx context.Context) error {
	file := filepath.Join(r.config.RunDir, appArmorDefault)
	if err := os.WriteFile(file, []byte(appArmorRules), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	ctx, cancel := context.WithTimeout(ctx, appArmorTimeout)
	defer cancel()
	said, err := exec.CommandContext(ctx, "apparmor_parser", "--skip-cache", "--replace", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("load the AppArmor profile %s (package apparmor has what does it): %w: %.500s", appArmorDefault, err, said)
	}
	return nil
}
