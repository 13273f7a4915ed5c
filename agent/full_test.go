package agent_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// smallDisk mounts a file system of 256 KiB and 200 files on dir. fill leaves no room on it, for the one or for the other; free takes
// that back.
func smallDisk(t *testing.T, dir string) (fill map[string]func(), free func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,nr_inodes=200"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	until := func(do func(int) error) {
		for i := 0; ; i++ {
			if err := do(i); errors.Is(err, unix.ENOSPC) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return map[string]func(){
			"bytes": func() {
				if err := os.MkdirAll(ballast, 0o755); err != nil {
					t.Fatal(err)
				}
				f, err := os.Create(filepath.Join(ballast, "file"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				until(func(int) error { _, err := io.WriteString(f, strings.Repeat("x", 4096)); return err })
			},
			"files": func() {
				until(func(i int) error { return os.MkdirAll(filepath.Join(ballast, strings.Repeat("x", i+1)), 0o755) })
			},
		}, func() {
			if err := os.RemoveAll(ballast); err != nil {
				t.Fatal(err)
			}
		}
}

// Where the disk is full, what runs runs on with what it has, what is new waits and says why, once, and all goes on when there is room.
func TestFullDisk(t *testing.T) {
	const noRoom = "no space left on device"
	settings := func(colour string) *v1.ConfigMap {
		return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"colour": colour, colour: "new"}}
	}
	shows := func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "settings", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
			LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}}}}
	}
	for _, of := range []string{"bytes", "files"} {
		t.Run(of, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			fill, free := smallDisk(t, dir)
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, settings("blue"))
				n.stop()
				n.config.DataDir = dir
				n.start()
				n.create(newPod("web", shows), newPod("older"))
				n.want("web", "Running app=running/0")
				volume := filepath.Join(dir, "pods", "uid-web", "volumes", "settings")
				colour := func() string { text, _ := os.ReadFile(filepath.Join(volume, "colour")); return string(text) }

				fill[of]()
				if _, err := n.client.CoreV1().ConfigMaps("default").Update(t.Context(), settings("red"), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				n.exit("uid-older-app-0", 1)
				n.create(newPod("late", func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }))
				requests := len(n.client.Actions())
				after(t, 10*time.Minute)
				n.want("web", "Running app=running/0")
				n.want("late", "Pending app=ContainerCreating/0")
				if colour() != "blue" {
					t.Errorf("a volume shows %q on a full disk, want what it showed before", colour())
				}
				if asked := len(n.client.Actions()) - requests; asked > 60 {
					t.Errorf("%d requests in 10 minutes", asked)
				}
				for _, pod := range []string{"web", "late"} {
					if told := n.eventsOf(pod, noRoom); len(told) != 1 {
						t.Errorf("the events of %s about the full disk are %q, want one", pod, told)
					}
				}

				free()
				after(t, 10*time.Minute)
				for _, pod := range []string{"web", "late"} {
					n.want(pod, "Running app=running/0")
				}
				n.want("older", "Running app=running/1")
				if _, err := os.Stat(filepath.Join(volume, "red")); colour() != "red" || err != nil {
					t.Errorf("with room again the volume shows %q, and its new file %v", colour(), err)
				}
				if versions, _ := filepath.Glob(filepath.Join(volume, "..[0-9]*")); len(versions) != 1 {
					t.Errorf("the volume has the versions %v, want one", versions)
				}
			})
		})
	}
}

// eventsOf are the messages of a pod's Events that contain text.
func (n *node) eventsOf(pod, text string) (messages []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.told {
		if e.InvolvedObject.Name == pod && strings.Contains(e.Message, text) {
			messages = append(messages, e.Reason+": "+e.Message)
		}
	}
	return messages
}
