package containerd

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// The containers of a pod that says shareProcessNamespace are in one process namespace, and the kernel ends a namespace with its
// process 1. So that no container's end is the end of the others, process 1 is a program that only waits: Kubernetes' pause.
// https://kubernetes.io/docs/tasks/configure-pod-container/share-process-namespace/
//
// It is a container of its own, confined more than any other, because a container that may trace others can become whatever
// process 1 is. It has the pod's UID as its ID, and comes and goes with the pod: nobody lists it. Where somebody kills it, the
// kernel kills the pod's containers with it, and the next Start makes another.

// pauseOOMScore makes it the last of its pod to be killed for the node's memory.
const pauseOOMScore = -998

// pauseMode lets it be run and not be read: such a process cannot be traced by others of its user.
const pauseMode = 0o111

// pauseUser is Kubernetes' for it. Not nobody, 65534: containers run as that, too, and who has a process's user may trace it.
const pauseUser = 65535

// sharedProcesses is the process namespace of a pod, which is made if it is not there.
func (r *Runtime) sharedProcesses(ctx context.Context, c agent.ContainerConfig) (string, error) {
	path, err, _ := r.pauses.Do(c.Pod.UID, func() (any, error) {
		program, err := r.programFor(c.Handler)
		if err != nil {
			return "", err
		}
		pid, err := r.pausing(ctx, c.Pod.UID)
		if pid == 0 && err == nil {
			pid, err = r.pause(ctx, c, program)
		}
		return fmt.Sprintf("/proc/%d/ns/pid", pid), err
	})
	if err != nil {
		return "", fmt.Errorf("share the process namespace: %w", err)
	}
	return path.(string), nil
}

// pausing is the process 1 of a pod, 0 if there is none. What is left of one that ended is removed; one of which nothing can be told
// at the moment may have the pod's containers in its namespace, and stays.
func (r *Runtime) pausing(ctx context.Context, podUID string) (pid uint32, err error) {
	container, err := r.client.LoadContainer(ctx, podUID)
	if errdefs.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var status containerd.Status
	task, err := container.Task(ctx, nil)
	if err == nil {
		status, err = task.Status(ctx)
	}
	switch {
	case errdefs.IsNotFound(err), err == nil && (status.Status == containerd.Created || status.Status == containerd.Stopped):
		return 0, r.destroy(ctx, podUID)
	case err != nil:
		return 0, err
	case task.Pid() == 0: // The shim has not answered in time.
		return 0, fmt.Errorf("process 1 of the pod is %s", status.Status)
	}
	return task.Pid(), nil
}

// pause has a program start the process 1 of a pod.
func (r *Runtime) pause(ctx context.Context, c agent.ContainerConfig, program string) (pid uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, taskTime)
	defer cancel()
	root, err := r.pauseRoot()
	if err != nil {
		return 0, err
	}
	r.own(c.Pod.UID, c.Pod.UID)
	container, err := r.client.NewContainer(ctx, c.Pod.UID,
		r.withRuntime(program, c),
		containerd.WithAdditionalContainerLabels(map[string]string{labelPodUID: c.Pod.UID}),
		containerd.WithNewSpec(pauseSpec(c, root)...))
	if err != nil {
		return 0, err
	}
	task, err := container.NewTask(ctx, cio.NullIO)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return 0, errors.Join(err, r.destroy(clean, c.Pod.UID))
	}
	return task.Pid(), nil
}

func pauseSpec(c agent.ContainerConfig, root string) []oci.SpecOpts {
	opts := []oci.SpecOpts{
		oci.WithDefaultUnixDevices,
		set(func(s *oci.Spec) {
			score := oomScoreAdj(pauseOOMScore)
			s.Version = specVersion
			s.Root = &specs.Root{Path: root, Readonly: true}
			s.Mounts = []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			}
			s.Process.Args, s.Process.Env, s.Process.Cwd, s.Process.Rlimits = []string{"/" + pauseFile}, nil, "/", nil
			s.Process.User = specs.User{UID: pauseUser, GID: pauseUser}
			s.Process.NoNewPrivileges, s.Process.OOMScoreAdj = true, &score
		}),
		oci.WithAnnotations(map[string]string{groupAnnotation: c.Pod.UID}),
		oci.WithCgroup(c.CgroupParent + "/pause"),
		oci.WithCapabilities(nil),
	}
	return append(append(opts, isolation(c, "")...), seccomp.WithDefaultProfile())
}

// endPause kills and removes the process 1 of a pod, if there is one.
func (r *Runtime) endPause(ctx context.Context, podUID string) error {
	if r.ownerOf(podUID) == "" {
		return nil
	}
	if err := r.destroy(ctx, podUID); err != nil {
		return fmt.Errorf("end the shared processes of pod %s: %w", podUID, err)
	}
	return nil
}

// pauseFile is all that is in the root of such a container.
const pauseFile = "pause"

func (r *Runtime) pauseDir() string { return filepath.Join(r.config.RunDir, "pause") }

// pauseRoot is the directory with the program; all pods have the same. It is a file system of its own: from others under /run
// no program may be run on some hosts.
func (r *Runtime) pauseRoot() (string, error) {
	program, err := pauseProgram(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	dir := r.pauseDir()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	mounted, err := isMountPoint(dir)
	if err != nil {
		return "", err
	}
	if !mounted {
		if err := unix.Mount("pause", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=64k"); err != nil {
			return "", fmt.Errorf("mount a place for the program: %w", err)
		}
	}
	file := filepath.Join(dir, pauseFile)
	if info, err := os.Stat(file); err == nil && info.Mode().Perm() == pauseMode {
		return dir, nil
	}
	for _, point := range []string{"proc", "dev"} { // The program's users may not be allowed to make them.
		if err := os.MkdirAll(filepath.Join(dir, point), 0o755); err != nil {
			return "", err
		}
	}
	next := file + ".new"
	if err := errors.Join(os.WriteFile(next, program, 0o700), os.Chmod(next, pauseMode)); err != nil {
		return "", err
	}
	return dir, os.Rename(next, file)
}

// The program in machine code: it ignores SIGCHLD, by which the kernel buries the children that others leave to process 1, and
// sleeps.
var (
	pauseAMD64 = []byte{
		0x6a, 0x00, 0x6a, 0x00, 0x6a, 0x00, // push 0 (3 times): no flags, no restorer, no mask
		0x6a, 0x01, //                         push SIG_IGN
		0xbf, 0x11, 0x00, 0x00, 0x00, //       mov edi, SIGCHLD
		0x48, 0x89, 0xe6, //                   mov rsi, rsp
		0x31, 0xd2, //                         xor edx, edx
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8: bytes of the mask
		0xb8, 0x0d, 0x00, 0x00, 0x00, //       mov eax, rt_sigaction
		0x0f, 0x05, //                         syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, //       mov eax, pause
		0x0f, 0x05, //                         syscall
		0xeb, 0xf7, //                         jmp to the second mov eax
	}
	pauseARM64 = []byte{
		0xe1, 0x03, 0x40, 0xb2, // mov x1, SIG_IGN
		0xe1, 0x7f, 0xbe, 0xa9, // stp x1, xzr, [sp, -32]!: no flags
		0xff, 0x7f, 0x01, 0xa9, // stp xzr, xzr, [sp, 16]: no restorer, no mask
		0x20, 0x02, 0x80, 0xd2, // mov x0, SIGCHLD
		0xe1, 0x03, 0x00, 0x91, // mov x1, sp
		0xe2, 0x03, 0x1f, 0xaa, // mov x2, xzr
		0xe3, 0x03, 0x7d, 0xb2, // mov x3, 8: bytes of the mask
		0xc8, 0x10, 0x80, 0xd2, // mov x8, rt_sigaction
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0xe0, 0x03, 0x1f, 0xaa, // mov x0, xzr
		0xe1, 0x03, 0x1f, 0xaa, // mov x1, xzr
		0xe2, 0x03, 0x1f, 0xaa, // mov x2, xzr
		0xe3, 0x03, 0x1f, 0xaa, // mov x3, xzr
		0x28, 0x09, 0x80, 0xd2, // mov x8, ppoll
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0xfa, 0xff, 0xff, 0x17, // b to the first mov x0, xzr
	}
)

// pauseProgram makes an executable of it: the shortest one that the kernel loads, an ELF header, one segment, the code.
func pauseProgram(arch string) ([]byte, error) {
	const start, headers = 0x400000, 64 + 56
	var code []byte
	var machine elf.Machine
	switch arch {
	case "amd64":
		code, machine = pauseAMD64, elf.EM_X86_64
	case "arm64":
		code, machine = pauseARM64, elf.EM_AARCH64
	default:
		return nil, fmt.Errorf("there is no pause program for %s yet", arch)
	}
	size := uint64(headers + len(code))
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: start + headers,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: start, Filesz: size, Memsz: size, Align: 1 << 16}
	var file bytes.Buffer
	for _, part := range []any{header, segment, code} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}
