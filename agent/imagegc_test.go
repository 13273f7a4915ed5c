package agent_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/agent"
)

// When the disk is full, images go that nothing uses and that can be had again, the longest unused first, and no more than needed.
func TestImageGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		created := time.Now()
		for name, image := range map[string]agent.Image{
			"old": {Digest: "sha256:1"}, "older": {Digest: "sha256:2", Created: created.Add(-time.Hour)}, "imported": {Digest: "sha256:3", Kept: true},
			"waiting": {Digest: "sha256:4"}, "ran": {Digest: "sha256:5", Created: created.Add(-2 * time.Hour)}, "late": {Digest: "sha256:6", Created: created.Add(7 * time.Minute)},
			"nginx": {Digest: "sha256:7"}, "busybox": {Digest: "sha256:8", Kept: true},
		} {
			if image.Created.IsZero() {
				image.Created = created.Add(-time.Minute)
			}
			n.runtime.AddImage(name, image)
		}
		var full atomic.Int64
		full.Store(50)
		n.agent.SetDiskShare(func() int { return int(full.Load()) })
		stop := n.agent.RunImages(t.Context())
		defer stop()
		has := func(want string) {
			t.Helper()
			images, err := n.runtime.Images(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, image := range images {
				names = append(names, strings.TrimSuffix(strings.TrimPrefix(image.Names[0], "docker.io/library/"), ":latest"))
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("the images are %q, want %q", got, want)
			}
		}
		n.create(newPod("web"), newPod("waits", func(p *v1.Pod) {
			p.Spec.Containers[0].Image = "waiting"
			p.Spec.HostUsers, p.Spec.RuntimeClassName = nil, new("none") // It never starts.
		}), newPod("ran", func(p *v1.Pod) { p.Spec.Containers[0].Image = "ran" }))
		after(t, 6*time.Minute)
		n.markDeleted("ran", 0)
		has("busybox imported late nginx old older ran waiting")
		full.Store(90)
		n.runtime.OnRemove(func(name string) {
			if strings.Contains(name, "older") {
				full.Store(79) // That was enough.
			}
		})
		after(t, 5*time.Minute)
		has("busybox imported late nginx old ran waiting")
		full.Store(90)
		after(t, 5*time.Minute)
		has("busybox imported nginx waiting")
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, e := range n.told {
			if e.Reason == "FreeDiskSpaceFailed" && e.InvolvedObject.Kind == "Node" {
				return
			}
		}
		t.Error("nobody is told that the disk is still full")
	})
}
