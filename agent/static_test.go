package agent

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
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
	if first.Name != "web-n1" || first.Namespace != "default" || first.Spec.NodeName != "n1" || first.Spec.Containers[0].ImagePullPolicy != "Always" || string(first.UID) != came[0] {
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

const aStatic = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: nginx}]}\n"

// Of two files with a pod of one name the first one counts, as long as it is there. What is wrong is told once.
func TestStaticFilesOfOneName(t *testing.T) {
	s, now := newStatics(t.TempDir(), "n1"), time.Now().Add(time.Hour)
	a, b := filepath.Join(s.dir, "a.yaml"), filepath.Join(s.dir, "b.yaml")
	write := func(file string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(aStatic), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b)
	s.read(now)
	second := s.file[b]
	write(a)
	if changed := s.read(now); len(changed) != 2 || s.get(second).DeletionTimestamp == nil || s.file[a] == "" || s.get(s.file[a]).DeletionTimestamp != nil {
		t.Errorf("with a first file: changed %v, files %v", changed, s.file)
	}
	if !strings.Contains(s.ignored[b], "default/web-n1 is that of "+a) {
		t.Errorf("told: %v", s.ignored)
	}
	if changed := s.read(now); len(changed) != 0 {
		t.Errorf("nothing has changed, but %v", changed)
	}
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	if s.read(now); s.file[b] != second || s.get(second).DeletionTimestamp != nil || len(s.ignored) != 0 {
		t.Errorf("without the first file: files %v, told %v", s.file, s.ignored)
	}
}

// A folder that cannot be read ends nothing; one that is not there has no pods.
func TestStaticFolderThatCannotBeRead(t *testing.T) {
	s, now := newStatics(t.TempDir(), "n1"), time.Now()
	if err := os.WriteFile(filepath.Join(s.dir, "a.yaml"), []byte(aStatic), 0o600); err != nil {
		t.Fatal(err)
	}
	uid := s.read(now)[0]
	folder := s.dir
	s.dir = filepath.Join(folder, "a.yaml")
	if changed := s.read(now); len(changed) != 0 || s.get(uid).DeletionTimestamp != nil {
		t.Errorf("an error changes %v", changed)
	}
	s.dir = filepath.Join(folder, "none")
	if changed := s.read(now); len(changed) != 1 || s.get(uid).DeletionTimestamp == nil {
		t.Errorf("without a folder: changed %v", changed)
	}
}

// A file that is as it was is not read again, unless its last change is so young that another may not show.
func TestStaticFileIsReadOnce(t *testing.T) {
	s := newStatics(t.TempDir(), "n1")
	file := filepath.Join(s.dir, "a.yaml")
	write := func() time.Time {
		t.Helper()
		if err := os.WriteFile(file, []byte(aStatic), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	looks := func(now time.Time, want bool) {
		t.Helper()
		if pod, err := s.look(file, now); err != nil || (pod != nil) != want {
			t.Errorf("read: %t (%v), want %t", pod != nil, err, want)
		}
	}
	written := write()
	looks(written, true)
	looks(written.Add(time.Minute), true)
	looks(written.Add(time.Minute), false)
	if err := os.Chtimes(file, written, written.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	looks(written.Add(time.Hour), true)
	looks(written.Add(time.Hour), false)
}

// What is asked of a mirror is asked of its static pod. A pod that says that it mirrors another one is only itself.
func TestRequestOfAMirror(t *testing.T) {
	factory := informers.NewSharedInformerFactory(clientfake.NewClientset(), 0)
	a := &Agent{Config: Config{NodeName: "n1"}, pods: factory.Core().V1().Pods().Informer(), statics: newStatics(t.TempDir(), "n1")}
	if err := a.pods.AddIndexers(cache.Indexers{byUID: indexByUID}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.statics.dir, "a.yaml"), []byte(aStatic), 0o600); err != nil {
		t.Fatal(err)
	}
	uid := a.statics.read(time.Now())[0]
	for _, tc := range []struct{ name, mirrors, want string }{
		{"victim", "", "uid-victim"}, {"web-n1", uid, uid}, {"copy", uid, "uid-copy"}, {"false", "uid-victim", "uid-false"},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: tc.name, UID: types.UID("uid-" + tc.name)}, Spec: v1.PodSpec{NodeName: "n1"}}
		if tc.mirrors != "" {
			pod.Annotations = map[string]string{v1.MirrorPodAnnotationKey: tc.mirrors}
		}
		if err := a.pods.GetIndexer().Add(pod); err != nil {
			t.Fatal(err)
		}
		routes := chi.NewRouteContext()
		routes.URLParams.Add("namespace", "default")
		routes.URLParams.Add("pod", tc.name)
		r := httptest.NewRequest("GET", "/", nil)
		got, err := a.podOf(r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, routes)))
		if err != nil || string(got.UID) != tc.want {
			t.Errorf("pod %s is taken for %v (%v), want %s", tc.name, got, err, tc.want)
		}
	}
	if pod := a.pod("uid-victim"); pod == nil || pod.Name != "victim" {
		t.Errorf("the pod that another says it mirrors is %v", pod)
	}
}
