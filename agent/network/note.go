package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A note stands for a pod that plugins may keep something for, from before they are asked until they have taken it back. Many keep it
// where it outlives a reboot, and so do the notes.

func (n *Network) note(uid string) string { return filepath.Join(n.config.NoteDir, uid) }

// writeNote says whom the pod's network is for, and which ports: plugins are told when it goes, too.
func (n *Network) writeNote(pod Pod) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s\n", pod.Namespace, pod.Name)
	for _, p := range pod.HostPorts {
		fmt.Fprintln(&b, p.Host, p.Container, p.Protocol, p.HostIP)
	}
	return os.WriteFile(n.note(pod.UID), []byte(b.String()), 0o644)
}

func (n *Network) readNote(uid string) (Pod, error) {
	text, err := os.ReadFile(n.note(uid))
	if err != nil {
		return Pod{}, err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	namespace, name, _ := strings.Cut(lines[0], "/")
	pod := Pod{UID: uid, Namespace: namespace, Name: name}
	for _, line := range lines[1:] {
		var p HostPort
		if got, _ := fmt.Sscan(line, &p.Host, &p.Container, &p.Protocol, &p.HostIP); got >= 3 { // An address may be left out.
			pod.HostPorts = append(pod.HostPorts, p)
		}
	}
	return pod, nil
}

// noted lists the UIDs of the pods with a note. Without plugins there is nobody to ask for what a note stands for.
func (n *Network) noted() (uids []string, err error) {
	if n.config.CNI == nil {
		return nil, nil
	}
	entries, err := os.ReadDir(n.config.NoteDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		uids = append(uids, e.Name())
	}
	return uids, err
}
