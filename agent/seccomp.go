package agent

import (
	"fmt"
	"io"
	"os"

	v1 "k8s.io/api/core/v1"
)

// maxProfile bounds a seccomp profile.
const maxProfile = 1 << 20

// seccompProfile reads the node's own profile that a container names: a file under DATA/seccomp, and nowhere else.
// https://kubernetes.io/docs/tutorials/security/seccomp/
func (a *Agent) seccompProfile(pod *v1.Pod, c *v1.Container, s Security) ([]byte, error) {
	if s.Seccomp != string(v1.SeccompProfileTypeLocalhost) || s.Privileged {
		return nil, nil
	}
	var named *string
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		named = sc.SeccompProfile.LocalhostProfile
	}
	if sc := c.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		named = sc.SeccompProfile.LocalhostProfile
	}
	if named == nil {
		return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
	}
	f, err := os.OpenInRoot(a.dirs.seccomp(), *named)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", *named, err)
	}
	defer f.Close()
	profile, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(profile) > maxProfile {
		err = fmt.Errorf("it is larger than %d bytes", maxProfile)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", *named, err)
	}
	return profile, nil
}
