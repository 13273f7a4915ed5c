package containerd

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"skiff/agent"
)

// spreads says whether what is mounted in a volume later comes to the other side, as m wants it. The kernel passes that on only where the
// volume is on a mount of the host's that is shared: systemd makes all of them so, on other machines nobody may have.
// https://kubernetes.io/docs/concepts/storage/volumes/#mount-propagation
func spreads(m agent.Mount) error {
	if m.Propagation != "rshared" && m.Propagation != "rslave" {
		return nil
	}
	at, err := mount.Lookup(m.Source)
	if err != nil {
		return fmt.Errorf("find the mount of %s: %w", m.Source, err)
	}
	shared := strings.Contains(at.Optional, "shared:")
	switch {
	case m.Propagation == "rshared" && !shared:
		return notShared(m, at, "shared")
	case m.Propagation == "rslave" && !shared && !strings.Contains(at.Optional, "master:"):
		return notShared(m, at, "shared or slave")
	}
	return nil
}

func notShared(m agent.Mount, at mount.Info, kind string) error {
	return fmt.Errorf("path %q is mounted on %q but it is not a %s mount: mount --make-rshared %s", m.Source, at.Mountpoint, kind, at.Mountpoint)
}
