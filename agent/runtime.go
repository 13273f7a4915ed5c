package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"skiff/agent/cgroup"
)

// Errors that a [Runtime] wraps and the agent acts on.
var (
	ErrNoImage     = errors.New("image not found")          // Neither here nor, for Pull, in its registry.
	ErrNoRegistry  = errors.New("registry does not answer") // Pull: whether the image is there nobody could say.
	ErrNoContainer = errors.New("container not found")      // It was never there or is removed.
	ErrNotRunning  = errors.New("container is not running") // Exec, Attach: there is no process to talk to.
	ErrNoRoom      = errors.New("the disk is full")         // Pull, Start: nothing is wrong but that.
)

// NotStarted is Start's error where the container is made and stays, ended, for its process could not be started.
type NotStarted struct{ Err error }

func (e *NotStarted) Error() string { return e.Err.Error() }
func (e *NotStarted) Unwrap() error { return e.Err }

// Runtime runs containers for the agent. The one for real is agent/containerd. It keeps no wishes of its own: the agent
// says what to start and what to stop, and learns what there is from Containers, also after either of them restarted.
// Its containers live on when the agent or the runtime's own daemon stops.
type Runtime interface {
	// Version is what a Node reports, for example "containerd://1.6.20".
	Version(ctx context.Context) (string, error)

	// Handlers are the programs that can make containers; the first makes those of pods without a RuntimeClass. They stay the same.
	Handlers() []Handler

	// Image returns the local image that ref names, or ErrNoImage. ref is what a pod says: "nginx", "nginx:1.29", with or
	// without registry, or with a digest; its full name follows docker's rules ("docker.io/library/nginx:latest").
	Image(ctx context.Context, ref string) (Image, error)

	// Pull fetches and unpacks ref from its registry, or from a mirror that stands for it. ErrNoImage if the registry says
	// that there is none. logins are tried one after the other, and shown to the registry that ref names only; without any,
	// the registry is asked as by anybody. progress, if not nil, is told now and then the bytes had and the bytes in all known so far.
	Pull(ctx context.Context, ref string, logins []Login, progress func(done, total int64)) (Image, error)

	// Images lists the local images.
	Images(ctx context.Context) ([]Image, error)

	// RemoveImage takes a full name off an image, and deletes what only that name needed. No error if it is gone already.
	RemoveImage(ctx context.Context, name string) error

	// MountImage shows the files of a local image in the directory dir for a pod, not to be written to, until RemovePod; dir is
	// unmounted by whoever removes it. No error if they are there already.
	MountImage(ctx context.Context, podUID, ref, dir string) error

	// Start makes a container and starts its process. Its error is what a user reads as the container's message. One that is a
	// NotStarted leaves an ended container, with its StartError; any other nothing.
	Start(ctx context.Context, c ContainerConfig) error

	// Resize changes what a running container may use, and of the labels that it was started with those that are given. What
	// stands in Resources as zero stays as it is. ErrNotRunning if it has ended.
	Resize(ctx context.Context, id string, r Resources, labels map[string]string) error

	// LimitGroup makes a cgroup that is to be the parent of others, with those above it, if it is not there, and limits it.
	LimitGroup(ctx context.Context, path string, limits cgroup.Limits) error

	// Containers lists every container that Start made and Remove did not remove, ended ones with how they ended.
	Containers(ctx context.Context) ([]Container, error)

	// PodContainers are those of Containers that belong to a pod. It costs the same however many pods there are.
	PodContainers(ctx context.Context, podUID string) ([]Container, error)

	// Signal asks the container's first process to stop, by the image's stop signal (SIGTERM where it names none); kill
	// sends SIGKILL to all of its processes instead, also if it is Silent, and then it has ended. No error if it has ended already.
	Signal(ctx context.Context, id string, kill bool) error

	// Remove deletes an ended container with its writable layer; its log stays. No error if it is gone already.
	Remove(ctx context.Context, id string) error

	// Collect gives back the room on the disk that removed containers and images took, where that is not done yet.
	Collect(ctx context.Context) error

	// EndPod ends what runs for a pod besides its containers, when those have ended. No error if there is nothing.
	EndPod(ctx context.Context, podUID string) error

	// RemovePod deletes what is left of a pod when its containers are removed: its cgroups, and what the runtime keeps for
	// the whole pod. No error if it is gone already.
	RemovePod(ctx context.Context, podUID string) error

	// ImagesDir is where images and the layers of containers are, "" if that is not known.
	ImagesDir() string

	// DiskUsage is how many bytes a container's writable layer takes, with the volumes that its image declares. It may have to look
	// at each file.
	DiskUsage(ctx context.Context, id string) (int64, error)

	// Exec runs a command in a running container and returns its exit status when it has ended and its output is copied.
	// When ctx ends the process is killed.
	Exec(ctx context.Context, id string, e ExecConfig) (status int, err error)

	// Attach connects streams to the container's first process until it ends or ctx does, or until the stdin given ends where
	// the container's stays open: where it has no StdinOnce, or the client a terminal.
	Attach(ctx context.Context, id string, s Streams) error

	// Events calls changed with a container's pod UID whenever one of the pod's containers starts or ends, and with "" when
	// events may have been missed (the daemon was away): list then. It blocks until ctx ends.
	Events(ctx context.Context, changed func(podUID string)) error
}

// Handler is a program that makes containers, and what it can do.
type Handler struct {
	Name              string // As RuntimeClasses call it.
	RecursiveReadOnly bool   // Mounts below a read-only one are read-only, too.
	UserNamespaces    bool   // A pod may have users of its own.
}

// Login is who asks a registry. Without a Username the Password is an identity token.
type Login struct{ Username, Password string }

// Image is an image in the runtime's store.
type Image struct {
	Names  []string // Full names, "docker.io/library/nginx:latest".
	Digest string   // Of its manifest, "sha256:...". ContainerStatus.imageID is made of it.
	Size   int64    // Bytes, compressed.

	Created time.Time // Here, not when it was built.
	Kept    bool      // It was imported, and is not for the agent to delete.

	// What the image asks for, where the pod does not say otherwise.
	User string // "", "101", "nginx", "101:101".
}

// ContainerConfig is a container to be started, with everything of the pod's spec worked out: nothing in it refers to
// the API. Empty means the image's or the runtime's default.
type ContainerConfig struct {
	ID      string // Unique on the node: "<pod uid>-<name>-<attempt>".
	Pod     PodRef
	Name    string            // The container's name in the pod.
	Attempt int               // 0 for the first container of this name, then counting restarts.
	Image   string            // As in the pod.
	Labels  map[string]string // Kept with the container and given back by Containers; the agent's own notes.

	Handler string // One of Handlers; "": as the runtime chooses.

	Command    []string // The image's ENTRYPOINT if empty.
	Args       []string // The image's CMD if this and Command are empty.
	Env        []string // "KEY=value", added to and overriding the image's.
	WorkingDir string
	StopSignal string // "SIGUSR1": instead of the image's.
	Stdin      bool   // Keep stdin open for Attach.
	StdinOnce  bool   // Close it when the first attached client goes.
	TTY        bool

	Mounts    []Mount
	LogPath   string // The agent's CRI log file: the runtime writes it.
	Resources Resources
	Security  Security

	// Paths of the pod's pinned namespaces. Empty NetNS means the host's network.
	NetNS, IPCNS, UTSNS string
	UserNS              string // Empty: the host's users.
	FirstUser           uint32 // What user 0 is outside of UserNS; UsersPerPod follow one another.
	HostPID, HostIPC    bool
	SharePID            bool              // It is in one process namespace with the pod's other containers.
	PIDOf               string            // Else: ID of a running container whose process namespace it joins.
	Sysctls             map[string]string // "net.ipv4.tcp_syncookies": "1"; of the pod's namespaces only.
	CgroupParent        string            // "/skiff/<pod uid>"; the container gets a child of it, without the UID in its name.
}

// PodRef says whose container this is.
type PodRef struct{ UID, Namespace, Name string }

// Mount is a bind mount of a host path into the container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	Recursive      bool   // ReadOnly holds for what is mounted below Source too; the kernel must know how (5.12).
	NoExec         bool   // No program in it can be run.
	Propagation    string // "private" (default), "rslave", "rshared".
}

// Resources are the kernel's limits. Zero means none.
type Resources struct {
	CPUShares   uint64 // cgroup v1 cpu.shares; weight on v2 is derived from it.
	CPUQuota    int64  // Microseconds per CPUPeriod.
	CPUPeriod   uint64
	MemoryLimit int64 // Bytes.
	OOMScoreAdj int   // What the kernel grants of it.
	PidsLimit   int64

	HugePages cgroup.HugePageLimits // From the start on; a resize leaves them.
}

// Security is what the container's processes may do.
type Security struct {
	UID, GID           *int64 // nil: the image's.
	SupplementalGroups []int64
	StrictGroups       bool // Without those that the image's files give the user.
	UnmaskedProc       bool // All of /proc is seen, and may be written to by who may.
	Privileged         bool
	NoNewPrivileges    bool
	ReadOnlyRootFS     bool
	AddCapabilities    []string // "NET_ADMIN"; "ALL".
	DropCapabilities   []string
	AppArmor           string // "": none; AppArmorDefault: the runtime's; or the name of one that the kernel knows.
	Seccomp            string // "" or "Unconfined", "RuntimeDefault", "Localhost".
	Profile            []byte // Of "Localhost": JSON, as in the OCI runtime specification.
}

// AppArmorDefault stands for the runtime's own profile.
const AppArmorDefault = "RuntimeDefault"

// State is a container's place in its life.
type State string

// The states of a Container.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Silent  State = "unknown" // What watches over it does not answer; as far as is known it runs. CRI's CONTAINER_UNKNOWN.
)

// Container is what the runtime knows of a container.
type Container struct {
	ID       string
	Pod      PodRef
	Name     string
	Attempt  int
	Image    string // As it was asked for.
	ImageID  string // Digest.
	Labels   map[string]string
	LogPath  string
	Cgroup   string // The path of its cgroup, "/skiff/<pod uid>/<name>"; "": it has none that can be read.
	User     *User  // Who its first process was started as; nil: that was not kept.
	State    State
	Created  time.Time
	Started  time.Time // Zero if never.
	Finished time.Time // Zero unless Exited.
	ExitCode int
	Signal   int
	OOM      bool // Ended by the kernel's memory limit.
	Unknown  bool // How it ended could not be learned: exit code 137, reason ContainerStatusUnknown.

	StartError string // Why its process could not be started, if that was its end.
}

// User is who a process is, by the numbers that the container knows.
type User struct {
	UID, GID int64
	Groups   []int64 // All of them, the GID among them.
}

// alive says that a container may still do something.
func (c *Container) alive() bool { return c.State == Running || c.State == Silent }

// Streams are the ends that Exec and Attach connect to a process. Nil ones are not connected.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer // With a TTY all output goes to Stdout.
	TTY            bool
	Resize         <-chan Size
}

// EndsStdin says whether the container's stdin ends with that of the first client, as in Kubernetes: `kubectl run -i` of
// `cat` ends when its input does, and with --leave-stdin-open only the client goes.
func (s Streams) EndsStdin(once bool) bool { return once && !s.TTY }

// ExecConfig is a command to run in a container.
type ExecConfig struct {
	Streams
	Command []string
}

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }
