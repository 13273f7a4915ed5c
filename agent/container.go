package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// ready is a pod whose network, volumes and files are there.
type ready struct {
	network PodNetwork
	volumes map[string]volume // By name.
	files   []Mount

	firstUser uint32 // Of the pod's own; 0: it has the node's.
	handler   string // Of its RuntimeClass; known when its containers start.
	recursive bool   // That can do recursiveReadOnly.
}

// containerConfig works out all that the runtime has to know. Its errors are the user's to mend.
func (a *Agent) containerConfig(ctx context.Context, pod *v1.Pod, s start, r *ready, image Image) (ContainerConfig, error) {
	c := s.container
	services, err := a.services.List(labels.Everything())
	if err != nil {
		return ContainerConfig{}, fmt.Errorf("list services: %w", err)
	}
	links := serviceVariables(services, pod.Namespace, pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks)
	if links["HOSTNAME"], err = kernelHostname(pod, a.NodeName, a.ClusterDomain); err != nil {
		return ContainerConfig{}, err
	}
	env, err := environment(ctx, pod, c, place{nodeIPs: a.nodeIPs(), network: &r.network}, links, a.allocatable(), r.volumes, a.sources)
	if err != nil {
		return ContainerConfig{}, err
	}
	mounts, err := a.mounts(pod, s, r, env.values)
	if err != nil {
		return ContainerConfig{}, err
	}
	security, err := securityOf(pod, c, image)
	if err != nil {
		return ContainerConfig{}, err
	}
	if security.AppArmor != "" && !a.appArmor { // Of an ephemeral container: the pod has been let in before it came.
		return ContainerConfig{}, errNoAppArmor
	}
	if a.seLinux && needsSELinux(pod, c) {
		return ContainerConfig{}, errSELinux
	}
	if security.Profile, err = a.seccompProfile(pod, c, security); err != nil {
		return ContainerConfig{}, err
	}
	memory := a.allocatable()[v1.ResourceMemory]
	resources := resourcesOf(pod, c, memory.Value())
	resources.HugePages = a.containerHugePages(pod, c)
	return ContainerConfig{
		ID:      fmt.Sprintf("%s-%s-%d", pod.UID, c.Name, s.attempt),
		Pod:     PodRef{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name},
		Name:    c.Name,
		Attempt: s.attempt,
		Image:   c.Image,
		Labels:  a.notes(pod, s, r.handler),
		Handler: r.handler,

		Command:    expandAll(c.Command, env.values),
		Args:       expandAll(c.Args, env.values),
		Env:        env.list(),
		WorkingDir: c.WorkingDir,
		StopSignal: stopSignal(c),
		Stdin:      c.Stdin,
		StdinOnce:  c.StdinOnce,
		TTY:        c.TTY,

		Mounts:    mounts,
		LogPath:   a.dirs.log(pod, c.Name, s.attempt),
		Resources: resources,
		Security:  security,

		NetNS: r.network.NetNS, IPCNS: r.network.IPCNS, UTSNS: r.network.UTSNS,
		UserNS: r.network.UserNS, FirstUser: r.firstUser,
		HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC, SharePID: isTrue(pod.Spec.ShareProcessNamespace), Sysctls: sysctls(pod),
		CgroupParent: a.podCgroup(pod),
	}, nil
}

// notes are what the agent keeps with a container that it starts.
func (a *Agent) notes(pod *v1.Pod, s start, handler string) map[string]string {
	labels := sizeLabels(pod, s.container)
	labels[labelBoot], labels[labelBackoff] = a.boot, s.backoff.String()
	if handler != "" {
		labels[labelHandler] = handler
	}
	if s.round > 0 {
		labels[labelRound] = strconv.Itoa(s.round)
	}
	return labels
}

func stopSignal(c *v1.Container) string {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return ""
	}
	return string(*c.Lifecycle.StopSignal)
}

func sysctls(pod *v1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	values := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		values[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return values
}

func expandAll(words []string, values map[string]string) []string {
	var expanded []string
	for _, w := range words {
		expanded = append(expanded, expand(w, values))
	}
	return expanded
}

// securityOf merges the pod's and the container's security contexts; the container's wins.
func securityOf(pod *v1.Pod, c *v1.Container, image Image) (Security, error) {
	var s Security
	var nonRoot *bool
	if p := pod.Spec.SecurityContext; p != nil {
		s.UID, s.GID, nonRoot = p.RunAsUser, p.RunAsGroup, p.RunAsNonRoot
		s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
		if p.FSGroup != nil {
			s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
		}
		s.StrictGroups = p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
		if p.SeccompProfile != nil {
			s.Seccomp = string(p.SeccompProfile.Type)
		}
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			s.UID = sc.RunAsUser
		}
		if sc.RunAsGroup != nil {
			s.GID = sc.RunAsGroup
		}
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
		if sc.SeccompProfile != nil {
			s.Seccomp = string(sc.SeccompProfile.Type)
		}
		if sc.Capabilities != nil {
			s.AddCapabilities = capabilities(sc.Capabilities.Add)
			s.DropCapabilities = capabilities(sc.Capabilities.Drop)
		}
		s.Privileged = isTrue(sc.Privileged)
		s.UnmaskedProc = sc.ProcMount != nil && *sc.ProcMount == v1.UnmaskedProcMount
		s.ReadOnlyRootFS = isTrue(sc.ReadOnlyRootFilesystem)
		s.NoNewPrivileges = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	}
	switch armor := appArmorOf(pod, c); {
	case armor == nil:
	case armor.Type == v1.AppArmorProfileTypeRuntimeDefault:
		s.AppArmor = AppArmorDefault
	case armor.Type == v1.AppArmorProfileTypeLocalhost && armor.LocalhostProfile != nil:
		s.AppArmor = *armor.LocalhostProfile
	}
	if s.Seccomp == "" {
		s.Seccomp = string(v1.SeccompProfileTypeRuntimeDefault) // As a kubelet with --seccomp-default.
	}
	if isTrue(nonRoot) {
		if err := checkNonRoot(s.UID, image.User); err != nil {
			return s, err
		}
	}
	return s, nil
}

func capabilities(names []v1.Capability) []string {
	var list []string
	for _, name := range names {
		list = append(list, string(name))
	}
	return list
}

func checkNonRoot(uid *int64, imageUser string) error {
	if uid != nil {
		if *uid == 0 {
			return errors.New("container's runAsUser breaks non-root policy")
		}
		return nil
	}
	user, _, _ := strings.Cut(imageUser, ":")
	number, err := strconv.ParseInt(user, 10, 64)
	switch {
	case user == "" || err == nil && number == 0:
		return errors.New("container has runAsNonRoot and image will run as root")
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", user)
	}
	return nil
}
