package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// dirs says where the agent keeps what:
//
//	DATA/logs/NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log    written by the runtime
//	DATA/pods/NAME.yaml                                  static pods, put there by the node's administrator
//	DATA/pods/UID/hosts, resolv.conf, hostname           bind-mounted into each container
//	DATA/pods/UID/users                                  the first of the IDs of its users, if it has its own
//	DATA/pods/UID/messages/CONTAINER-ATTEMPT             termination messages
//	DATA/pods/UID/volumes/NAME                           emptyDir, configMap, downwardAPI
//	DATA/pods/UID/parts/CONTAINER-ATTEMPT/NUMBER         mounts of a subPath
//	DATA/volumes/HANDLE                                  volumes of the class "local", which no pod's end touches
//	DATA/seccomp/NAME                                    seccomp profiles of the node's own, put there by its administrator
//	RUN/secrets/UID/NAME                                 secret, projected
type dirs struct{ data, run string }

func (d dirs) seccomp() string             { return filepath.Join(d.data, "seccomp") }
func (d dirs) logs() string                { return filepath.Join(d.data, "logs") }
func (d dirs) pods() string                { return filepath.Join(d.data, "pods") }
func (d dirs) secrets() string             { return filepath.Join(d.run, "secrets") }
func (d dirs) pod(uid types.UID) string    { return filepath.Join(d.pods(), string(uid)) }
func (d dirs) secret(uid types.UID) string { return filepath.Join(d.secrets(), string(uid)) }

func (d dirs) users(uid string) string { return filepath.Join(d.pods(), uid, "users") }

func (d dirs) volume(uid types.UID, name string) string {
	return filepath.Join(d.pod(uid), "volumes", name)
}

func (d dirs) localVolumes() string { return filepath.Join(d.data, "volumes") }

// localVolume is the directory of a volume with that handle.
func (d dirs) localVolume(handle string) (string, error) {
	if !plainName.MatchString(handle) {
		return "", fmt.Errorf("%q cannot be part of a path", handle)
	}
	return filepath.Join(d.localVolumes(), handle), nil
}

// parts is where the parts of volumes that a container has are mounted.
func (d dirs) parts(uid types.UID, container string, attempt int) string {
	return filepath.Join(d.pod(uid), "parts", fmt.Sprintf("%s-%d", container, attempt))
}

func (d dirs) podLogs(pod *v1.Pod) string {
	return filepath.Join(d.logs(), pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

func (d dirs) log(pod *v1.Pod, container string, attempt int) string {
	return filepath.Join(d.podLogs(pod), container, strconv.Itoa(attempt)+".log")
}

func (d dirs) message(uid types.UID, container string, attempt int) string {
	return filepath.Join(d.pod(uid), "messages", fmt.Sprintf("%s-%d", container, attempt))
}

// What may become a part of a path: UIDs, and names of pods, containers and volumes. API servers see to that; this is
// the second lock on the door.
var plainName = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$`)

// checkNames refuses a pod whose names could lead out of its directories.
func checkNames(pod *v1.Pod) error {
	names := []string{string(pod.UID), pod.Namespace, pod.Name}
	for _, c := range allContainers(&pod.Spec) {
		names = append(names, c.Name)
	}
	for _, v := range pod.Spec.Volumes {
		names = append(names, v.Name)
	}
	for _, name := range names {
		if !plainName.MatchString(name) {
			return fmt.Errorf("%q cannot be part of a path", name)
		}
	}
	return nil
}

// removePod deletes all that a pod has left on disk.
func (d dirs) removePod(uid string) error {
	if !plainName.MatchString(uid) {
		return fmt.Errorf("%q cannot be part of a path", uid)
	}
	left := []string{d.pod(types.UID(uid)), d.secret(types.UID(uid))}
	logs, err := filepath.Glob(filepath.Join(d.logs(), "*_*_"+uid))
	if err != nil {
		return fmt.Errorf("find the logs of pod %s: %w", uid, err)
	}
	left = append(left, logs...)
	if err := UnmountBelow(left...); err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what pod %s left: %w", uid, err)
		}
	}
	return nil
}

// removeVolumes deletes what a pod that has ended had as volumes of its own. What its containers wrote otherwise stays.
func (d dirs) removeVolumes(uid types.UID) error {
	left := []string{filepath.Join(d.pod(uid), "parts"), filepath.Join(d.pod(uid), "volumes"), d.secret(uid)}
	if err := UnmountBelow(left...); err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// allContainers lists the init containers, then the others, then the ephemeral ones.
func allContainers(spec *v1.PodSpec) []*v1.Container {
	var all []*v1.Container
	for i := range spec.InitContainers {
		all = append(all, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		all = append(all, &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		all = append(all, asContainer(&spec.EphemeralContainers[i]))
	}
	return all
}
