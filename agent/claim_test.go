package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/agent"
	"skiff/api"
)

// boundClaim is a claim, and the volume that it is bound to.
func boundClaim(name string, source v1.PersistentVolumeSource) (*v1.PersistentVolumeClaim, *v1.PersistentVolume) {
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid-claim"},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound},
	}
	return claim, &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name, UID: "uid-pv"},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeSource:        source,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &v1.ObjectReference{Namespace: "default", Name: name, UID: "uid-claim"},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{nodeName}}},
			}}}},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeBound},
	}
}

func localSource(handle string) v1.PersistentVolumeSource {
	return v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: api.LocalDriver, VolumeHandle: handle}}
}

func ofClaim(name string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	}
}

func thisNode() *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{v1.LabelHostname: nodeName}}}
}

// The data of a volume is there from the first pod on, outlives it, and goes when the volume is deleted, unless it is to be retained:
// then the next volume with that handle has it.
func TestLocalVolume(t *testing.T) {
	for policy, kept := range map[v1.PersistentVolumeReclaimPolicy]bool{
		v1.PersistentVolumeReclaimDelete: false, v1.PersistentVolumeReclaimRetain: true, v1.PersistentVolumeReclaimRecycle: true,
	} {
		t.Run(string(policy), func(t *testing.T) { testLocalVolume(t, policy, kept) })
	}
}

func testLocalVolume(t *testing.T, policy v1.PersistentVolumeReclaimPolicy, kept bool) {
	synctest.Test(t, func(t *testing.T) {
		claim, pv := boundClaim("data", localSource("one"))
		pv.Spec.PersistentVolumeReclaimPolicy = policy
		n := newNode(t, claim, pv, thisNode())
		n.create(newPod("web", ofClaim("data")))
		n.want("web", "Running app=running/0")
		dir := filepath.Join(n.config.DataDir, "volumes", "one")
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		volumes := n.client.CoreV1().PersistentVolumes()
		got, err := volumes.Get(t.Context(), pv.Name, metav1.GetOptions{})
		if err != nil || !slices.Contains(got.Finalizers, api.LocalFinalizer) {
			t.Fatalf("a volume with data has the finalizers %v (%v)", got.Finalizers, err)
		}
		n.markDeleted("web", 0)
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Fatalf("with its pod the volume's data went: %v", err)
		}
		got.DeletionTimestamp, got.Status.Phase = new(metav1.Now()), v1.VolumeReleased
		if _, err := volumes.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		settle(t)
		if _, err := os.Stat(filepath.Join(dir, "file")); os.IsNotExist(err) == kept {
			t.Errorf("the data of a deleted volume: %v", err)
		}
		if got, err = volumes.Get(t.Context(), pv.Name, metav1.GetOptions{}); err == nil && len(got.Finalizers) > 0 {
			t.Errorf("the volume is kept by %v", got.Finalizers)
		}
		if !kept {
			return
		}
		_, again := boundClaim("data", localSource("one"))
		if _, err := volumes.Update(t.Context(), again, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		n.create(newPod("next", ofClaim("data")))
		n.want("next", "Running app=running/0")
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "precious" {
			t.Errorf("the next volume with that handle holds %q (%v)", data, err)
		}
	})
}

// A pod does not start with a volume that is not the one that its claim promises, and is told why.
func TestVolumeIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)
		want   string
	}{
		"a claim that is not bound":     {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Phase = v1.ClaimPending }, "PVC is not bound"},
		"somebody else's volume":        {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.ClaimRef.UID = "other" }, "is not bound to PVC default/data"},
		"data that is gone":             {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Finalizers = []string{api.LocalFinalizer} }, "is not on this node any more"},
		"a handle that leads elsewhere": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.CSI.VolumeHandle = "../pods" }, `"../pods" cannot be part of a path`},
		"a handle that is the whole":    {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.CSI.VolumeHandle = ".." }, `".." cannot be part of a path`},
		"a volume of another node":      {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { affinity(v).Values = []string{"other"} }, "MountVolume.NodeAffinity check failed"},
		"a driver that is not there":    {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.CSI.Driver = "disk.example.com" }, "no volume plugin matched"},
		"a local path that is not there": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = localPath("/nowhere/at/all")
		}, `path "/nowhere/at/all" does not exist`},
		"a local path that leads back": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = localPath("/tmp/../etc")
		}, "absolute path without '..'"},
		"a block device": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.VolumeMode = new(v1.PersistentVolumeBlock)
		}, "volumeMode Block"},
		"a claim that is about to go": {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.DeletionTimestamp = new(metav1.Now()) }, "PVC is being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				claim, pv := boundClaim("data", localSource("one"))
				tc.change(claim, pv)
				n := newNode(t, claim, pv, thisNode())
				n.create(newPod("web", ofClaim("data")))
				n.want("web", "Pending app=ContainerCreating/0")
				n.mu.Lock()
				defer n.mu.Unlock()
				if !slices.ContainsFunc(n.told, func(e *v1.Event) bool { return e.Reason == "FailedMount" && strings.Contains(e.Message, tc.want) }) {
					t.Errorf("nobody is told %q", tc.want)
				}
				if left, _ := filepath.Glob(filepath.Join(n.config.DataDir, "volumes", "*")); len(left) > 0 {
					t.Errorf("it has made %q", left)
				}
			})
		})
	}
}

func affinity(v *v1.PersistentVolume) *v1.NodeSelectorRequirement {
	return &v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
}

func localPath(path string) v1.PersistentVolumeSource {
	return v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}}
}

// The image of a volume is pulled as a container's is: the pod waits for it, and is told when it cannot be had.
func TestImageVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		ofImage := func(image string) func(*v1.Pod) {
			return func(p *v1.Pod) {
				p.Spec.Volumes = []v1.Volume{{Name: "model", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: image, PullPolicy: v1.PullIfNotPresent}}}}
				p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "model", MountPath: "/model"}}
			}
		}
		n.runtime.Publish("models/small:1", agent.Image{})
		n.create(newPod("web", ofImage("models/small:1")), newPod("none", ofImage("models/none")))
		n.want("web", "Running app=running/0")
		pods, _, _ := n.agent.Dirs()
		if got, err := os.ReadFile(filepath.Join(pods, "uid-web", "volumes", "model", "image")); string(got) != "docker.io/models/small:1" {
			t.Errorf("the volume shows %q (%v)", got, err)
		}
		n.want("none", "Pending app=ErrImagePull/0")
		after(t, 3*time.Second)
		n.want("none", "Pending app=ImagePullBackOff/0")
		n.runtime.Publish("models/none", agent.Image{})
		after(t, time.Minute)
		n.want("none", "Running app=running/0")
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, want := range []string{`Failed to pull image "models/none"`, `Back-off pulling image "models/none"`} {
			if !slices.ContainsFunc(n.told, func(e *v1.Event) bool { return strings.HasPrefix(e.Message, want) }) {
				t.Errorf("nobody is told %q", want)
			}
		}
		if i := slices.IndexFunc(n.told, func(e *v1.Event) bool { return e.Reason == "FailedMount" }); i >= 0 {
			t.Errorf("an image that is awaited is told as a failed mount: %s", n.told[i].Message)
		}
	})
}

// What a pod that runs has made in its volume keeps its mode when the agent starts again.
func TestGroupIsGivenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claim, pv := boundClaim("data", localSource("one"))
		n := newNode(t, claim, pv, thisNode())
		n.create(newPod("web", ofClaim("data"), func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(os.Getgid()))}
			p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: "about", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{}}})
		}))
		n.want("web", "Running app=running/0")
		file := filepath.Join(n.config.DataDir, "volumes", "one", "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.stop()
		n.start()
		n.want("web", "Running app=running/0")
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("after a restart a file has the mode %v (%v)", info.Mode(), err)
		}
	})
}

// The summary tells of volumes in memory, and of those of claims whose they are.
func TestVolumeStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claim, pv := boundClaim("data", localSource("v1"))
		n := newNode(t, thisNode(), claim, pv, newPod("web", ofClaim("data")))
		n.want("web", "Running app=running/0")
		pod := n.get("web").DeepCopy()
		memory := v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: "cache", VolumeSource: v1.VolumeSource{EmptyDir: &memory}},
			v1.Volume{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{}}})
		if err := os.MkdirAll(filepath.Join(n.config.DataDir, "pods", string(pod.UID), "volumes", "cache"), 0o755); err != nil {
			t.Fatal(err)
		}
		list := n.agent.VolumeStats(pod)
		if len(list) != 2 || list[0].Claim == nil || list[0].Claim.Name != "data" || *list[0].Capacity == 0 || list[1].Name != "cache" || list[1].Claim != nil || list[1].Capacity == nil {
			t.Errorf("told of %+v, want the claim's volume and the one in memory", list)
		}
	})
}
