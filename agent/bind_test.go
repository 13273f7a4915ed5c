package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMountsBelow(t *testing.T) {
	const info = `22 1 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /data rw shared:1 - ext4 /dev/vdb rw
31 30 0:41 / /data/pods/a/volumes/mem rw - tmpfs tmpfs rw
32 31 0:42 / /data/pods/a/volumes/mem/with\040blank\134 rw - tmpfs tmpfs rw
33 30 0:43 / /data/pods/ab rw - tmpfs tmpfs rw
`
	if diff := cmp.Diff([]string{`/data/pods/a/volumes/mem/with blank\`, "/data/pods/a/volumes/mem"}, mountsBelow(info, "/data/pods/a")); diff != "" {
		t.Errorf("below a pod's directory (-want +got):\n%s", diff)
	}
	if got := mountsBelow(info, "/data/pods/ab"); got != nil {
		t.Errorf("%q, but what is mounted on the directory itself is not below it", got)
	}
}

// A part of a volume never lies outside of the volume, whatever a container has put there.
func TestOpenPart(t *testing.T) {
	outside, volume := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600),
		os.Mkdir(filepath.Join(volume, "data"), 0o700), os.WriteFile(filepath.Join(volume, "data", "file"), []byte("here"), 0o600),
		os.Symlink("data/file", filepath.Join(volume, "inside")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(volume, "absolute")),
		os.Symlink("../"+filepath.Base(outside), filepath.Join(volume, "data", "up")),
		os.Symlink("..", filepath.Join(volume, "parent")),
		os.Chmod(volume, 0o751|os.ModeSetgid|os.ModeSticky),
	); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"data", "data/file", "inside", "new/deep"} {
		part, err := openPart(volume, sub)
		if err != nil {
			t.Errorf("%s: %v", sub, err)
			continue
		}
		part.Close()
	}
	if info, err := os.Stat(filepath.Join(volume, "new", "deep")); err != nil || info.Mode() != fs.ModeDir|fs.ModeSetgid|fs.ModeSticky|0o751 {
		t.Errorf("a part that was missing: %v, %v; want a directory of mode 3751, like the volume", info, err)
	}
	for _, sub := range []string{"absolute", "data/up", "data/up/secret", "data/up/made", "parent", "../x", "parent/x"} {
		if part, err := openPart(volume, sub); err == nil {
			part.Close()
			t.Errorf("%s leads out of the volume and was opened", sub)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "made")); err == nil {
		t.Error("a directory was made outside of the volume")
	}
}

func TestSubPath(t *testing.T) {
	env := map[string]string{"NAME": "web-1", "EVIL": "../../etc"}
	for _, tc := range []struct {
		mount v1.VolumeMount
		want  string
		fails bool
	}{
		{v1.VolumeMount{}, "", false},
		{v1.VolumeMount{SubPath: "a//b/"}, "a/b", false},
		{v1.VolumeMount{SubPathExpr: "logs/$(NAME)"}, "logs/web-1", false},
		{v1.VolumeMount{SubPathExpr: "logs/$(NOPE)"}, "", true},
		{v1.VolumeMount{SubPathExpr: "$(EVIL)"}, "", true},
		{v1.VolumeMount{SubPath: "../x"}, "", true},
		{v1.VolumeMount{SubPath: "/etc"}, "", true},
	} {
		got, err := subPath(&tc.mount, env)
		if got != tc.want || (err != nil) != tc.fails {
			t.Errorf("%+v: %q, %v; want %q, error %t", tc.mount, got, err, tc.want, tc.fails)
		}
	}
}

func TestMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems")
	}
	dir := t.TempDir()
	d := dirs{data: dir, run: t.TempDir()}
	t.Cleanup(func() {
		if err := UnmountPods(dir); err != nil {
			t.Error(err)
		}
	})
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "config"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	parts, memory := d.parts("uid", "app", 0), d.volume("uid", "mem")
	for range 2 { // A start that failed is tried again.
		for sub, target := range map[string]string{"config": parts + "/0", "logs": parts + "/1"} {
			if err := bindPart(volume, sub, target); err != nil {
				t.Fatalf("bind %s: %v", sub, err)
			}
		}
		if err := makeEmptyDir(memory, nil, fileSystem{inMemory, "mode=1777,size=1048576"}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(parts + "/0"); string(got) != "precious" {
		t.Errorf("the part holds %q (%v), want the volume's file", got, err)
	}
	if info, err := os.Stat(memory); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("a volume in memory is %v (%v)", info.Mode(), err)
	}
	if err := os.WriteFile(memory+"/full", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB into 1 MiB of memory: %v, want no space", err)
	}
	if err := d.removePod("uid"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(volume, "config")); string(got) != "precious" {
		t.Errorf("after the pod is gone its volume holds %q (%v)", got, err)
	}
	if _, err := os.Stat(d.pod("uid")); !os.IsNotExist(err) {
		t.Errorf("the pod's directory is still there: %v", err)
	}
}

func TestDownwardAndProjectedFiles(t *testing.T) {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"b": "2", "a": `say "hi"`}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Resources: v1.ResourceRequirements{
			Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}}}}},
	}
	only := int32(0o400)
	items := []v1.DownwardAPIVolumeFile{
		{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		{Path: "deep/name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}, Mode: &only},
		{Path: "memory", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
	}
	from := objects{
		configMaps: map[string]map[string]string{"settings": {"colour": "blue", "size": "1"}},
		secrets:    map[string]map[string][]byte{"keys": {"token": []byte("s3cret")}},
	}
	yes := true
	files, err := projectedFiles(t.Context(), pod, &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}, Items: []v1.KeyToPath{{Key: "colour", Path: "conf/c"}}}},
		{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "keys"}}},
		{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}, Optional: &yes}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: items}},
	}}, from, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for path, f := range files {
		got[path] = f.mode.String() + " " + string(f.content)
	}
	want := map[string]string{
		"conf/c": "-rw-r--r-- blue", "token": "-rw-r--r-- s3cret", "labels": "-rw-r--r-- a=\"say \\\"hi\\\"\"\nb=\"2\"",
		"deep/name": "-r-------- web", "memory": "-rw-r--r-- 64",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []v1.DownwardAPIVolumeFile{
		{Path: "../x", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}},
		{Path: "x", FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nodeName"}},
		{Path: "x", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "nope", Resource: "limits.memory"}},
	} {
		if files, err := downwardFiles(pod, []v1.DownwardAPIVolumeFile{bad}, nil, nil); err == nil {
			t.Errorf("%+v gave %v, want an error", bad, files)
		}
	}
}

func TestMemorySize(t *testing.T) {
	node := v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi")}
	limited := func(limits ...string) *v1.Pod {
		pod := &v1.Pod{}
		for _, limit := range limits {
			c := v1.Container{}
			if limit != "" {
				c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(limit)}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		return pod
	}
	small := resource.MustParse("1Mi")
	for _, tc := range []struct {
		pod  *v1.Pod
		dir  v1.EmptyDirVolumeSource
		want int64
	}{
		{limited(""), v1.EmptyDirVolumeSource{}, 4 << 30},
		{limited("1Gi", "1Gi"), v1.EmptyDirVolumeSource{}, 2 << 30},
		{limited("1Gi", ""), v1.EmptyDirVolumeSource{}, 4 << 30},
		{limited("1Gi"), v1.EmptyDirVolumeSource{SizeLimit: &small}, 1 << 20},
	} {
		if got := memorySize(tc.pod, &tc.dir, node); got != tc.want {
			t.Errorf("%d bytes for a limit of %v, want %d", got, tc.dir.SizeLimit, tc.want)
		}
	}
}
