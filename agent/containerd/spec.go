package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// groupAnnotation makes the runc shim take a container to the others of the same value.
const groupAnnotation = "io.containerd.runc.v2.group"

// specVersion is what every runc 1.x and crun in use understands; nothing newer is needed.
const specVersion = "1.0.2"

// pathEnv is where programs are looked for in an image that sets no environment.
const pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// termEnv is what a process with a terminal is told of it.
const termEnv = "TERM=xterm"

// spec works out how the container runs: the image's configuration first, what the pod says over it. root is its root file system, shm
// the pod's /dev/shm, pidNS the process namespace to join, if any.
func spec(c agent.ContainerConfig, image ocispec.ImageConfig, root []mount.Mount, shm, pidNS string) []oci.SpecOpts {
	opts := []oci.SpecOpts{
		oci.WithDefaultUnixDevices,
		oci.WithoutRunMount,
		set(func(s *oci.Spec) { base(s, c, image) }),
		withCommand(c, image),
		oci.WithEnv(c.Env),
		oci.WithAnnotations(map[string]string{groupAnnotation: c.Pod.UID}),
		oci.WithCgroup(cgroupFor(c)),
	}
	opts = append(opts, withUser(image.User, root, c.Security))
	opts = append(opts, isolation(c, pidNS)...)
	opts = append(opts, set(func(s *oci.Spec) { mounts(s, c, shm) }))
	opts = append(opts, set(func(s *oci.Spec) { resources(s, c.Resources) }))
	return append(opts, security(c.Security)...)
}

func set(change func(*oci.Spec)) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		change(s)
		return nil
	}
}

func base(s *oci.Spec, c agent.ContainerConfig, image ocispec.ImageConfig) {
	s.Version = specVersion
	s.Process.Env = slices.Clone(image.Env)
	if len(image.Env) == 0 {
		s.Process.Env = []string{pathEnv}
	}
	s.Process.Rlimits = nil // The daemon's own, as Kubernetes has it.
	s.Process.Terminal = c.TTY
	s.Linux.Sysctl = c.Sysctls
	if c.TTY {
		s.Process.Env = append(s.Process.Env, termEnv)
	}
	s.Process.Cwd = cmp.Or(c.WorkingDir, image.WorkingDir, "/")
}

// withCommand follows Kubernetes' table: command replaces ENTRYPOINT and CMD, args alone replace CMD.
func withCommand(c agent.ContainerConfig, image ocispec.ImageConfig) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		command, args := c.Command, c.Args
		if len(command) == 0 {
			command = image.Entrypoint
			if len(args) == 0 {
				args = image.Cmd
			}
		}
		s.Process.Args = slices.Concat(command, args)
		if len(s.Process.Args) == 0 {
			return fmt.Errorf("no command specified: neither the pod nor image %s names one", c.Image)
		}
		return nil
	}
}

func isolation(c agent.ContainerConfig, pidNS string) []oci.SpecOpts {
	var opts []oci.SpecOpts
	join := func(kind specs.LinuxNamespaceType, path string, host bool) {
		switch {
		case host:
			opts = append(opts, oci.WithHostNamespace(kind))
		case path != "":
			opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: path}))
		}
	}
	join(specs.NetworkNamespace, c.NetNS, c.NetNS == "")
	join(specs.IPCNamespace, c.IPCNS, c.HostIPC)
	join(specs.UTSNamespace, c.UTSNS, false)
	join(specs.PIDNamespace, pidNS, c.HostPID && pidNS == "")
	if c.UserNS != "" {
		opts = append(opts, set(func(s *oci.Spec) { ownUsers(s, c.UserNS, c.FirstUser) }))
	}
	// With cgroup v1 a container sees the host's tree, as containerd does it for Kubernetes; with v2 its own part.
	if cgroup.Host().Unified() {
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}))
	}
	return opts
}

// mounts adds the pod's to the standard ones. A mount of the pod's takes the place of a standard one at the same path. What is mounted
// below another comes after it, in whatever order the pod names them, or it would be hidden.
func mounts(s *oci.Spec, c agent.ContainerConfig, shm string) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
	all := append([]agent.Mount{{Source: shm, Target: "/dev/shm"}}, c.Mounts...)
	for _, m := range all {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(old specs.Mount) bool { return old.Destination == m.Target })
		s.Mounts = append(s.Mounts, bind(m))
		switch {
		case m.Propagation == "rshared":
			s.Linux.RootfsPropagation = "rshared"
		case m.Propagation == "rslave" && s.Linux.RootfsPropagation == "":
			s.Linux.RootfsPropagation = "rslave"
		}
	}
	depth := func(m specs.Mount) int { return strings.Count(path.Clean(m.Destination), "/") }
	slices.SortStableFunc(s.Mounts, func(a, b specs.Mount) int { return depth(a) - depth(b) })
}

func bind(m agent.Mount) specs.Mount {
	propagation := m.Propagation
	if propagation == "" || propagation == "private" {
		propagation = "rprivate"
	}
	access := "rw"
	switch {
	case m.ReadOnly && m.Recursive:
		access = "rro"
	case m.ReadOnly:
		access = "ro"
	}
	options := []string{"rbind", propagation, access}
	if m.NoExec {
		options = append(options, "noexec")
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: options}
}

func resources(s *oci.Spec, want agent.Resources) {
	r, l := s.Linux.Resources, limits(want)
	r.CPU = l.CPU
	if l.Memory != nil {
		r.Memory = l.Memory
	}
	if l.Pids != nil {
		r.Pids = l.Pids
	}
	if want.MemoryLimit > 0 && cgroup.Host().Unified() {
		r.Unified = map[string]string{"memory.oom.group": "1"} // Without one of its processes a container may neither work nor end.
	}
	adj := oomScoreAdj(want.OOMScoreAdj)
	s.Process.OOMScoreAdj = &adj
}

// oomScoreAdj is what the kernel grants of it: without CAP_SYS_RESOURCE nobody may go below the own value.
func oomScoreAdj(want int) int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return want
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || want >= own || capable(unix.CAP_SYS_RESOURCE) {
		return want
	}
	return own
}

// capable says whether this process has the capability.
func capable(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

func security(sec agent.Security) []oci.SpecOpts {
	opts := []oci.SpecOpts{set(func(s *oci.Spec) {
		if sec.UnmaskedProc {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}
		s.Process.NoNewPrivileges = sec.NoNewPrivileges
		s.Root.Readonly = sec.ReadOnlyRootFS
	})}
	profile := oci.WithApparmorProfile(sec.AppArmor)
	if sec.Privileged { // Which takes a profile off: one that is asked for by name holds all the same.
		return append(opts, oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed, profile)
	}
	opts = append(append(opts, profile), capabilities(sec)...)
	switch sec.Seccomp {
	case "", "Unconfined":
	case "RuntimeDefault":
		opts = append(opts, seccomp.WithDefaultProfile(), set(withoutX32)) // Last: it depends on the capabilities.
	case "Localhost":
		opts = append(opts, ownProfile(sec.Profile))
	default:
		opts = append(opts, func(context.Context, oci.Client, *containers.Container, *oci.Spec) error {
			return fmt.Errorf("seccomp profile %q is not known: RuntimeDefault, Localhost and Unconfined are", sec.Seccomp)
		})
	}
	return opts
}

// withoutX32 takes an architecture out of a seccomp profile that the kernel does not have, as next to none has it. It saves the runtime a
// third of the time that the filter takes it, a tenth of a container's start.
func withoutX32(s *oci.Spec) {
	const x32, getpid = 0x40000000, 39 // Of all x86.
	if runtime.GOARCH != "amd64" {
		return
	}
	if filters, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); filters != 0 || err != nil {
		return // Whoever filters our own calls may kill us for the question.
	}
	if _, _, errno := unix.RawSyscall(x32|getpid, 0, 0, 0); errno == unix.ENOSYS {
		s.Linux.Seccomp.Architectures = slices.DeleteFunc(s.Linux.Seccomp.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
}

// ownProfile takes a seccomp profile as the user wrote it.
func ownProfile(text []byte) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Linux.Seccomp = &specs.LinuxSeccomp{}
		if err := json.Unmarshal(text, s.Linux.Seccomp); err != nil {
			return fmt.Errorf("read the seccomp profile: %w", err)
		}
		return nil
	}
}

// capabilities changes the default set: what ALL says first, then one by one, and a drop wins over nothing but ALL.
func capabilities(sec agent.Security) []oci.SpecOpts {
	names := func(from []string) (all bool, caps []string) {
		for _, name := range from {
			if name == "ALL" {
				all = true
				continue
			}
			caps = append(caps, "CAP_"+strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		}
		return all, caps
	}
	addAll, add := names(sec.AddCapabilities)
	dropAll, drop := names(sec.DropCapabilities)
	var opts []oci.SpecOpts
	if addAll {
		opts = append(opts, oci.WithAllCurrentCapabilities)
	}
	if dropAll {
		opts = append(opts, oci.WithCapabilities(nil))
	}
	return append(opts, oci.WithAddedCapabilities(add), oci.WithDroppedCapabilities(drop))
}
