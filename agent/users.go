package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
)

// The processes of a pod that says hostUsers: false have users of their own: the kernel takes each of their IDs, from 0 to 65535, for
// one that nobody else on the node has, so that root of such a pod is nobody outside of it. Files of its image and its volumes keep
// the owners that they have, by mounts that the kernel translates the IDs of: the runtime makes those.
// https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/
//
// A pod keeps its range, as it keeps its namespaces. No file in a volume knows the range, so that it does not matter if a power cut
// loses it.

// The IDs that pods may get: above those that systemd gives to containers and users, below 2^31, which some programs take for the end.
const (
	firstUser = 0x70000000
	lastUser  = 0x7ffdffff
)

// UsersPerPod is the length of a range.
const UsersPerPod = 1 << 16

// userRanges are the ranges that are taken.
type userRanges struct {
	mu     sync.Mutex
	owners map[uint32]string // The pod's UID, by the first ID.
}

var errNoUsers = errors.New("could not find an empty slot to allocate a user namespace")

// read finds the ranges that pods were given before.
func (u *userRanges) read(d dirs) error {
	u.owners = map[uint32]string{}
	pods, err := os.ReadDir(d.pods())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pod := range pods {
		if first, err := readUsers(d.users(pod.Name())); err == nil { // One that cannot be read was being written.
			u.owners[first] = pod.Name()
		}
	}
	return nil
}

func readUsers(file string) (first uint32, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil || n < firstUser || n > lastUser || n%UsersPerPod != 0 {
		return 0, fmt.Errorf("%s does not begin a range of users", file)
	}
	return uint32(n), nil
}

func hasOwnUsers(pod *v1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// of is the first ID of a pod's range, 0 for a pod that has the node's users. A pod that has none yet gets one.
func (u *userRanges) of(pod *v1.Pod, d dirs) (first uint32, err error) {
	if !hasOwnUsers(pod) {
		return 0, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	file := d.users(string(pod.UID))
	if first, err := readUsers(file); err == nil && u.owners[first] == string(pod.UID) {
		return first, nil
	}
	for first = firstUser; u.owners[first] != ""; first += UsersPerPod {
		if first+UsersPerPod > lastUser {
			return 0, errNoUsers
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return 0, err
	}
	if err := os.WriteFile(file, fmt.Appendln(nil, first), 0o600); err != nil {
		return 0, fmt.Errorf("note the users of a pod: %w", err)
	}
	u.owners[first] = string(pod.UID)
	return first, nil
}

// forget gives a pod's range back.
func (u *userRanges) forget(uid string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for first, owner := range u.owners {
		if owner == uid {
			delete(u.owners, first)
		}
	}
}
