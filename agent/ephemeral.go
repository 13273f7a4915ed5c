package agent

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"skiff/api"
)

// An ephemeral container comes into a pod that runs, so that somebody can look around there (`kubectl debug`). It is started
// once, whatever the pod's other containers do, and never again; the pod neither waits for it nor fails with it.
// https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/

// asContainer sees an ephemeral container as any other. The two types have the same fields by promise of the API.
func asContainer(c *v1.EphemeralContainer) *v1.Container {
	return (*v1.Container)(&c.EphemeralContainerCommon)
}

// ephemeral returns the pod's ephemeral container of that name, or nil.
func ephemeral(pod *v1.Pod, name string) *v1.EphemeralContainer {
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; c.Name == name {
			return c
		}
	}
	return nil
}

// debug decides for the ephemeral containers.
func (s seen) debug(d *decision) {
	s.round = 0 // They are of none: nothing has them start again.
	for i := range s.pod.Spec.EphemeralContainers {
		s.keep(d, asContainer(&s.pod.Spec.EphemeralContainers[i]), restartPolicy{otherwise: v1.RestartPolicyNever})
	}
}

// joins is the ID of the container whose processes an ephemeral container is to see, "" for none. Its error is what hinders the
// container, and only it: the rest of the pod goes on.
func (s seen) joins(name string) (id string, err error) {
	c := ephemeral(s.pod, name)
	if c == nil {
		return "", nil
	}
	if fields := api.UnservedEphemeral(s.pod, c); len(fields) > 0 {
		return "", errors.New(unservedMessage(fields))
	}
	if c.TargetContainerName == "" {
		return "", nil
	}
	target := s.latest(c.TargetContainerName)
	if target == nil || target.State != Running {
		return "", fmt.Errorf("unable to find target container %s", c.TargetContainerName)
	}
	return target.ID, nil
}

// ephemeralStatus tells an ephemeral container's state. Nobody waits for it to be ready.
func (s seen) ephemeralStatus(c *v1.EphemeralContainer, d decision, at place) v1.ContainerStatus {
	cs := s.containerStatus(asContainer(c), d, at, false)
	cs.Ready, cs.Started = false, nil
	return cs
}
