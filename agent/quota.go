package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A volume of the class "local" may take as much of the disk as its size says, where the file system can hold it to that: ext4 (with the
// features project and quota) and xfs, both mounted with prjquota, give a directory a project ID, which all that is made below it
// inherits, and count and limit what the files of a project take. Whoever writes beyond that is told that the quota is exceeded, and df
// in the volume shows its size.
//
// It keeps order among those who mean well: the kernel lets who has CAP_SYS_RESOURCE, as privileged containers do, go beyond, and who owns
// a file, but for pods with users of their own, move it to another project.
//
// Which ID a volume has, its directory says: it outlives the agent and a reboot. The limit of one whose directory is gone holds nobody,
// and is replaced when the ID is given again.
// https://docs.kernel.org/filesystems/quota.html

// The IDs of volumes. Others, Docker's and the kubelet's among them, begin at 1 or 2^20.
const (
	firstProject = 0x5cff0000
	lastProject  = 0x5cffffff
)

// quotas limits directories below one of the agent's own.
type quotas struct {
	able bool // The file system can.

	mu sync.Mutex // Held while an ID is chosen.
}

// openQuotas finds out whether the file system of a directory holds projects to their limits.
func openQuotas(dir string) *quotas {
	f, err := os.Open(dir)
	if err != nil {
		return &quotas{}
	}
	defer f.Close()
	// A struct fs_quota_stat, of which the flags are what matters.
	var state struct {
		version int8
		flags   uint16
		_       [124]byte
	}
	state.version = 1
	const getState, projectsCounted, projectsLimited = 'X'<<8 + 5, 1 << 4, 1 << 5
	err = quotactl(f, getState, 0, unsafe.Pointer(&state))
	return &quotas{able: err == nil && state.flags&projectsCounted != 0 && state.flags&projectsLimited != 0}
}

// limit lets what is below a directory take so many bytes. One that has no ID gets one if it is empty. A volume that has none and is not,
// for it was made where the file system could not do it yet, stays without a limit.
func (q *quotas) limit(dir string, bytes int64) error {
	if !q.able {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	id, err := projectOf(f)
	if err == nil && id == 0 {
		id, err = q.give(f)
	}
	if err != nil || !isOurs(id) {
		return err
	}
	return setLimit(f, id, bytes)
}

// of is the project ID of a directory, 0 if it has none.
func (q *quotas) of(dir string) uint32 {
	if !q.able {
		return 0
	}
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	id, _ := projectOf(f)
	return id
}

func isOurs(id uint32) bool { return id >= firstProject && id <= lastProject }

// give gives an empty directory an ID that no other has: none of its neighbours, and nobody who has files on this disk.
func (q *quotas) give(f *os.File) (id uint32, err error) {
	if names, err := f.Readdirnames(1); len(names) > 0 {
		return 0, err
	}
	taken := map[uint32]bool{}
	neighbours, err := os.ReadDir(filepath.Dir(f.Name()))
	if err != nil {
		return 0, err
	}
	for _, e := range neighbours {
		if e.IsDir() {
			taken[q.of(filepath.Join(filepath.Dir(f.Name()), e.Name()))] = true
		}
	}
	for id := uint32(firstProject); id <= lastProject; id++ {
		if taken[id] {
			continue
		}
		usage, err := usageOf(f, id)
		if err != nil {
			return 0, err
		}
		if usage.Space == 0 && usage.Inodes == 0 {
			return id, setProject(f, id)
		}
	}
	return 0, errors.New("all project IDs for volumes are taken")
}

// dqblk is the kernel's struct if_dqblk. Limits count in KiB.
type dqblk struct {
	HardLimit, SoftLimit, Space    uint64
	InodesHard, InodesSoft, Inodes uint64
	SpaceTime, InodesTime          uint64
	Valid                          uint32
	_                              uint32
}

const (
	getQuota    = 0x800007
	setQuota    = 0x800008
	blockLimits = 1 // Of Valid.
)

// usageOf is what a project uses, and its limits. One that was never used has none of either.
func usageOf(f *os.File, id uint32) (dqblk, error) {
	var d dqblk
	err := quotactl(f, getQuota, id, unsafe.Pointer(&d))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		err = nil
	}
	if err != nil {
		return d, fmt.Errorf("ask for the quota of project %d: %w", id, err)
	}
	return d, nil
}

// setLimit limits a project. What is so already is not written again.
func setLimit(f *os.File, id uint32, bytes int64) error {
	limit := uint64((bytes + 1023) / 1024)
	if had, err := usageOf(f, id); err == nil && had.HardLimit == limit {
		return nil
	}
	d := dqblk{HardLimit: limit, Valid: blockLimits}
	if err := quotactl(f, setQuota, id, unsafe.Pointer(&d)); err != nil {
		return fmt.Errorf("limit project %d to %d bytes: %w", id, bytes, err)
	}
	return nil
}

// quotactl is the system call of Linux 5.14 that takes a file for the file system that it is on.
func quotactl(f *os.File, command int, id uint32, with unsafe.Pointer) error {
	const project = 2
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed unix.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, failed = unix.Syscall6(unix.SYS_QUOTACTL_FD, fd, uintptr(command)<<8|project, uintptr(id), uintptr(with), 0, 0)
	})
	if err == nil && failed != 0 {
		err = failed
	}
	return err
}

// fsxattr is the kernel's struct of that name.
type fsxattr struct {
	Flags, Extent, Extents, Project, CowExtent uint32
	_                                          [8]byte
}

const (
	getAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	inherited     = 0x200      // FS_XFLAG_PROJINHERIT
)

func projectOf(f *os.File) (uint32, error) {
	var a fsxattr
	err := attributes(f, getAttributes, &a)
	return a.Project, err
}

func setProject(f *os.File, id uint32) error {
	var a fsxattr
	if err := attributes(f, getAttributes, &a); err != nil {
		return err
	}
	a.Project, a.Flags = id, a.Flags|inherited
	return attributes(f, setAttributes, &a)
}

func attributes(f *os.File, command uintptr, a *fsxattr) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed unix.Errno
	err = conn.Control(func(fd uintptr) { _, _, failed = unix.Syscall(unix.SYS_IOCTL, fd, command, uintptr(unsafe.Pointer(a))) })
	if err == nil && failed != 0 {
		err = fmt.Errorf("project of %s: %w", f.Name(), failed)
	}
	return err
}
