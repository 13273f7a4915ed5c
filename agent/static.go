package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skiff/api"
)

// A static pod is a file on the node, DATA/pods/NAME.yaml: it runs whatever the API says, as long as the file is there. The API
// shows it as a mirror pod, which the agent makes: to change or delete that one changes nothing.
// https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/

// Annotations of static pods, besides those of k8s.io/api.
const (
	configHash   = "kubernetes.io/config.hash"
	configSeen   = "kubernetes.io/config.seen"
	configSource = "kubernetes.io/config.source"
)

// maxStaticFile bounds the size of a static pod's file.
const maxStaticFile = 1 << 20

// statics are the static pods, by UID, which is a hash of the file.
type statics struct {
	dir  string
	node string

	mu      sync.Mutex
	pods    map[string]*v1.Pod
	file    map[string]string // The UID that a file has.
	ignored map[string]string // What was wrong with a file, told once.
}

func newStatics(dir, node string) *statics {
	return &statics{dir: dir, node: node, pods: map[string]*v1.Pod{}, file: map[string]string{}, ignored: map[string]string{}}
}

// isStatic tells a static pod. Its mirror is none.
func isStatic(pod *v1.Pod) bool {
	_, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]
	return !mirror && pod.Annotations[configSource] == "file" && pod.Annotations[configHash] == string(pod.UID)
}

func (s *statics) get(uid string) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[uid]
}

func (s *statics) uids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.pods))
}

// forget drops a pod that was to end and has.
func (s *statics) forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod := s.pods[uid]; pod != nil && pod.DeletionTimestamp != nil {
		delete(s.pods, uid)
	}
}

// read compares the files with the pods that are known, and returns the UIDs of those that came, or are to go.
func (s *statics) read(now time.Time) (changed []string) {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.yaml")) // The pattern is a good one.
	s.mu.Lock()
	defer s.mu.Unlock()
	have := map[string]bool{}
	for _, file := range files {
		have[file] = true
		pod, err := s.parse(file)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				have[file] = false
			} else if s.ignored[file] != err.Error() {
				s.ignored[file] = err.Error()
				slog.Warn("a static pod's file is passed over; what it was before runs on", "file", file, "err", err)
			}
			continue
		}
		delete(s.ignored, file)
		uid := string(pod.UID)
		if s.file[file] == uid {
			continue
		}
		changed = append(changed, s.end(s.file[file], now)...)
		s.file[file], s.pods[uid] = uid, pod
		changed = append(changed, uid)
	}
	for file, uid := range s.file {
		if !have[file] {
			delete(s.file, file)
			delete(s.ignored, file)
			changed = append(changed, s.end(uid, now)...)
		}
	}
	return changed
}

// end marks a pod whose file is no more, as the API marks a deleted one.
func (s *statics) end(uid string, now time.Time) []string {
	pod := s.pods[uid]
	if pod == nil {
		return nil
	}
	ending := pod.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: now.Add(gracePeriod(pod))}
	ending.DeletionGracePeriodSeconds = pod.Spec.TerminationGracePeriodSeconds
	s.pods[uid] = ending
	return []string{uid}
}

// parse reads a pod as the API server would, and makes it this node's.
func (s *statics) parse(file string) (*v1.Pod, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStaticFile {
		return nil, fmt.Errorf("it must be a regular file of at most %d bytes", maxStaticFile)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(text, pod); err != nil {
		return nil, err
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" || pod.Name == "" {
		return nil, errors.New("it must be one Pod of v1, with a name")
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%s\n", s.node, filepath.Base(file))
	hash.Write(text)
	uid := fmt.Sprintf("%x", hash.Sum(nil)[:16])
	orDefault(&pod.Namespace, metav1.NamespaceDefault)
	pod.Name, pod.UID, pod.Generation = pod.Name+"-"+s.node, types.UID(uid), 1
	pod.Spec.NodeName = s.node
	pod.CreationTimestamp = metav1.NewTime(info.ModTime())
	pod.Annotations = maps.Clone(pod.Annotations)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[configHash], pod.Annotations[configSource] = uid, "file"
	pod.Annotations[configSeen] = info.ModTime().UTC().Format(time.RFC3339Nano)
	// What must run here runs whatever is the matter with the node.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	row := podRow()
	row.Default(pod)
	row.PrepareCreate(pod)
	if errs := append(row.Validate(pod), row.ValidateCreate(pod)...); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if what := refersToAPI(pod); what != "" {
		return nil, fmt.Errorf("static pods may not reference %s", what)
	}
	return pod, nil
}

// podRow has the rules of a pod. They are made when a file is read, which is seldom.
func podRow() *api.Resource {
	table := api.Table()
	return table[slices.IndexFunc(table, func(r *api.Resource) bool { return r.Group == "" && r.Kind == "Pod" })]
}

// refersToAPI names what a pod needs of the API, which a static one cannot rely on.
func refersToAPI(pod *v1.Pod) string {
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			return "configmaps"
		case v.Secret != nil:
			return "secrets"
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p v1.VolumeProjection) bool { return p.DownwardAPI == nil }):
			return "projected volumes of the API's objects"
		}
	}
	if pod.Spec.ServiceAccountName != "" || len(pod.Spec.ImagePullSecrets) > 0 {
		return "serviceaccounts and secrets"
	}
	for _, c := range allContainers(&pod.Spec) {
		if len(c.EnvFrom) > 0 {
			return "configmaps and secrets"
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && (e.ValueFrom.ConfigMapKeyRef != nil || e.ValueFrom.SecretKeyRef != nil) {
				return "configmaps and secrets"
			}
		}
	}
	return ""
}

// watchStatics follows the folder until ctx ends.
func (a *Agent) watchStatics(ctx context.Context) {
	w, err := watchFile(filepath.Join(a.statics.dir, "any"))
	if err != nil {
		slog.Warn("static pods are not followed", "dir", a.statics.dir, "err", err)
		return
	}
	defer w.close()
	never := make(chan struct{})
	for ok := true; ok; ok = w.wait(ctx, never) {
		for _, uid := range a.statics.read(time.Now()) {
			a.loop.Add(uid)
		}
	}
}

// seenOfStatic is a static pod with the status that its mirror has.
func seenOfStatic(pod, mirror *v1.Pod) *v1.Pod {
	dressed := pod.DeepCopy()
	if mirror != nil {
		mirror.Status.DeepCopyInto(&dressed.Status)
		dressed.ResourceVersion = mirror.ResourceVersion
	}
	return dressed
}

// mirrorOf is the mirror of a static pod as the API has it, or nil.
func (a *Agent) mirrorOf(uid string) *v1.Pod {
	found, err := a.pods.GetIndexer().ByIndex(byUID, a.NodeName+"/"+uid)
	if err != nil || len(found) == 0 {
		return nil
	}
	if pod := found[0].(*v1.Pod); pod.Annotations[v1.MirrorPodAnnotationKey] == uid {
		return pod
	}
	return nil
}

// mirror sees to it that the API shows a static pod, and none that is gone: nil.
func (a *Agent) mirror(ctx context.Context, uid string, pod *v1.Pod) error {
	have := a.mirrorOf(uid)
	if have != nil && (pod == nil || have.DeletionTimestamp != nil) {
		err := a.client.CoreV1().Pods(have.Namespace).Delete(ctx, have.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(have.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete mirror pod %s/%s: %w", have.Namespace, have.Name, err)
		}
		return nil // Its going is seen, and then another is made.
	}
	if have != nil || pod == nil || pod.DeletionTimestamp != nil {
		return nil
	}
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find node %s for its mirror pods: %w", a.NodeName, err)
	}
	mirror := pod.DeepCopy()
	mirror.Annotations[v1.MirrorPodAnnotationKey] = uid
	mirror.UID, mirror.ResourceVersion, mirror.CreationTimestamp, mirror.Status = "", "", metav1.Time{}, v1.PodStatus{}
	yes := true
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	if _, err := a.client.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	return nil
}
