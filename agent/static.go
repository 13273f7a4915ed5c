package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
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

// staticUID is how many digits a static pod's UID has.
const staticUID = 32

// staticSettled is how old the last change of a file must be before the file's times tell the next one: what is written within one tick
// of the kernel's clock has one time.
const staticSettled = time.Second

// statics are the static pods, by UID, which is a hash of the file.
type statics struct {
	dir  string
	node string
	row  func() *api.Resource

	mu      sync.Mutex
	known   bool // The folder was read.
	pods    map[string]*v1.Pod
	file    map[string]string // The UID that a file has.
	stamps  map[string]stamp  // What a file was like when it was read.
	ignored map[string]string // What was wrong with a file, told once.
}

// stamp changes with a file.
type stamp struct {
	inode           uint64
	size            int64
	written, change syscall.Timespec
}

func newStatics(dir, node string) *statics {
	return &statics{
		dir: dir, node: node, row: sync.OnceValue(podRow),
		pods: map[string]*v1.Pod{}, file: map[string]string{}, stamps: map[string]stamp{}, ignored: map[string]string{},
	}
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

// named lists those of a name: the one that is to run, and those that were before it and have not ended yet.
func (s *statics) named(namespace, name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uids []string
	for uid, pod := range s.pods {
		if pod.Name == name && pod.Namespace == namespace {
			uids = append(uids, uid)
		}
	}
	return uids
}

// mayHave says of a UID that it may be a static pod's, for the folder could not be read yet. Those of the API are written with dashes.
func (s *statics) mayHave(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir != "" && !s.known && len(uid) == staticUID && !strings.Contains(uid, "-")
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
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.complain(s.dir, "the static pods' folder cannot be read; what there was runs on", err)
		return nil
	}
	delete(s.ignored, s.dir)
	s.known = true
	have, first := map[string]bool{}, map[string]string{}
	for _, e := range entries { // By name.
		if filepath.Ext(e.Name()) == ".yaml" {
			file := filepath.Join(s.dir, e.Name())
			uids, there := s.readFile(file, first, now)
			changed, have[file] = append(changed, uids...), there
		}
	}
	for file := range s.stamps {
		if !have[file] {
			delete(s.stamps, file)
		}
	}
	for file := range s.ignored {
		if !have[file] {
			delete(s.ignored, file)
		}
	}
	for file, uid := range s.file {
		if !have[file] {
			delete(s.file, file)
			changed = append(changed, s.end(uid, now)...)
		}
	}
	return changed
}

// readFile is read for one file. first has the files before it by the pods' names: the first one of a name is the one that counts.
func (s *statics) readFile(file string, first map[string]string, now time.Time) (changed []string, there bool) {
	pod, err := s.look(file, now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		s.complain(file, "a static pod's file is passed over; what it was before runs on", err)
	}
	read := pod != nil
	if !read {
		pod = s.pods[s.file[file]]
	}
	if pod == nil {
		return nil, true
	}
	name := pod.Namespace + "/" + pod.Name
	if other, taken := first[name]; taken {
		s.complain(file, "a static pod's file is passed over", fmt.Errorf("pod %s is that of %s", name, other))
		changed = s.end(s.file[file], now)
		delete(s.file, file)
		delete(s.stamps, file) // For the other one may go.
		return changed, true
	}
	first[name] = file
	if read {
		delete(s.ignored, file)
	}
	uid := string(pod.UID)
	if s.file[file] == uid {
		return nil, true
	}
	changed = append(s.end(s.file[file], now), uid)
	s.file[file], s.pods[uid] = uid, pod
	return changed, true
}

// complain tells once what is wrong with a file.
func (s *statics) complain(file, what string, err error) {
	if s.ignored[file] != err.Error() {
		s.ignored[file] = err.Error()
		slog.Warn(what, "file", file, "err", err)
	}
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

// look reads a file, unless it is as it was: then there is neither a pod nor an error. The folder has more than these files, and all
// that happens in it wakes who watches it.
func (s *statics) look(file string, now time.Time) (*v1.Pod, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	is := stamp{size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		is.inode, is.written, is.change = sys.Ino, sys.Mtim, sys.Ctim
	}
	if s.stamps[file] == is {
		return nil, nil
	}
	delete(s.stamps, file)
	if !info.Mode().IsRegular() || info.Size() > maxStaticFile {
		return nil, fmt.Errorf("it must be a regular file of at most %d bytes", maxStaticFile)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if now.Sub(time.Unix(is.change.Unix())) > staticSettled {
		s.stamps[file] = is
	}
	return s.parse(file, text, info.ModTime())
}

// parse reads a pod as the API server would, and makes it this node's.
func (s *statics) parse(file string, text []byte, written time.Time) (*v1.Pod, error) {
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
	uid := fmt.Sprintf("%x", hash.Sum(nil)[:staticUID/2])
	orDefault(&pod.Namespace, metav1.NamespaceDefault)
	pod.Name, pod.UID, pod.Generation = pod.Name+"-"+s.node, types.UID(uid), 1
	pod.Spec.NodeName = s.node
	pod.CreationTimestamp = metav1.NewTime(written)
	pod.Annotations = maps.Clone(pod.Annotations)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[configHash], pod.Annotations[configSource] = uid, "file"
	pod.Annotations[configSeen] = written.UTC().Format(time.RFC3339Nano)
	// What must run here runs whatever is the matter with the node.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	row := s.row()
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

// podRow has the rules of a pod.
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
