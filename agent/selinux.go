package agent

import (
	"errors"
	"os"

	v1 "k8s.io/api/core/v1"
)

// What a pod says of SELinux means nothing on a node that does not have it, as in Kubernetes: charts write it for all nodes. On one
// that has it the container would run with another label than it asks for, and so it does not.
// https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#assign-selinux-labels-to-a-container

var errSELinux = errors.New(unservedMessage([]string{"securityContext.seLinuxOptions, on a node with SELinux"}))

// hasSELinux says whether the kernel has it, and it is on.
func hasSELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// needsSELinux says whether a container is to have a label of its own choice.
func needsSELinux(pod *v1.Pod, c *v1.Container) bool {
	asks := func(o *v1.SELinuxOptions) bool { return o != nil && *o != (v1.SELinuxOptions{}) }
	if sc := c.SecurityContext; sc != nil && sc.SELinuxOptions != nil {
		return asks(sc.SELinuxOptions)
	}
	return pod.Spec.SecurityContext != nil && asks(pod.Spec.SecurityContext.SELinuxOptions)
}
