package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStaticFiles follows what becomes of a file: it comes, is broken, changes, goes.
func TestStaticFiles(t *testing.T) {
	s := newStatics(t.TempDir(), "n1")
	file := filepath.Join(s.dir, "web.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: IMAGE}]}\n"
	write(strings.ReplaceAll(pod, "IMAGE", "nginx"))
	now := time.Now()
	came := s.read(now)
	if len(came) != 1 {
		t.Fatalf("changed: %v", came)
	}
	first := s.get(came[0])
	if first.Name != "web-n1" || first.Namespace != "default" || first.Spec.NodeName != "n1" || !isStatic(first) || first.Spec.Containers[0].ImagePullPolicy != "Always" || string(first.UID) != came[0] {
		t.Errorf("the pod is %v", first)
	}
	if again := s.read(now); len(again) != 0 {
		t.Errorf("nothing has changed, but %v", again)
	}
	for _, bad := range []string{"kind: [", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n", pod + "x: y\n",
		strings.ReplaceAll(pod, "image: IMAGE", "image: nginx, envFrom: [{secretRef: {name: s}}]"), strings.ReplaceAll(pod, "name: app", "name: App")} {
		write(bad)
		if changed := s.read(now); len(changed) != 0 || s.get(came[0]).DeletionTimestamp != nil {
			t.Errorf("%q: changed: %v", bad, changed)
		}
	}
	write(strings.ReplaceAll(pod, "IMAGE", "busybox"))
	changed := s.read(now)
	if len(changed) != 2 || changed[0] != came[0] || s.get(came[0]).DeletionTimestamp == nil || s.get(changed[1]).Spec.Containers[0].Image != "busybox" {
		t.Fatalf("after a change: %v", changed)
	}
	s.forget(came[0])
	s.forget(changed[1]) // It is not to end.
	if s.get(came[0]) != nil || s.get(changed[1]) == nil {
		t.Error("the wrong one is forgotten")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if gone := s.read(now); len(gone) != 1 || gone[0] != changed[1] || s.get(gone[0]).DeletionTimestamp == nil {
		t.Errorf("after the file went: %v", gone)
	}
}
