package containerd

import (
	"fmt"
	"os"
	"path/filepath"
)

// DaemonConfig says where a containerd of our own lives.
type DaemonConfig struct {
	Binary string // "" is the containerd on PATH.
	Root   string // Images, snapshots and what is known of containers: DATA/containerd.
	State  string // Shims' sockets and bundles, the pid file: RUN/containerd. Should not outlive a reboot.
	Socket string // "" is State/containerd.sock.
	Log    string // A file; "" is Root/containerd.log.
}

func (c DaemonConfig) withDefaults() DaemonConfig {
	if c.Binary == "" {
		c.Binary = "containerd"
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, "containerd.sock")
	}
	if c.Log == "" {
		c.Log = filepath.Join(c.Root, "containerd.log")
	}
	return c
}

func (c DaemonConfig) file() string { return filepath.Join(c.State, "config.toml") }

// configuration is written in the version that both containerd 1.6 and 2 read. What nothing here uses is off: it costs
// memory and time at start, and some of it makes folders of its own outside of Root and State.
//
// Its arguments are root, state, and the socket twice. Formats are used and not package text/template, because with that in
// the link no method of any type can be left out of it: 20 MB more.
const configuration = `version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.sandbox-controllers", "io.containerd.podsandbox.controller.v1.podsandbox",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.monitor.v1.cgroups", "io.containerd.monitor.task.v1.cgroups",
  "io.containerd.nri.v1.nri",
]
[grpc]
  address = %q
[ttrpc]
  address = %q
[debug]
  level = "warn"
[timeouts] # After the first of them containers are killed whose shim has not answered; the second bounds what clears up after a shim.
  "io.containerd.timeout.shim.load" = "15s" # Both are 5 seconds otherwise, which a busy machine may need.
  "io.containerd.timeout.shim.cleanup" = "30s"
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 1 # A container's layer is gone from the disk a moment after the container,
  schedule_delay = "1s"  # and not when a hundred other things have happened.
`

func (c DaemonConfig) write() error {
	text := fmt.Appendf(nil, configuration, c.Root, c.State, c.Socket, c.Socket+".ttrpc")
	return os.WriteFile(c.file(), text, 0o644)
}
