package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// staticAgain is after how long the static pods' folder is looked at again where the kernel does not tell of its changes, and how long a
// static pod waits at most before it is looked whether it may begin.
const staticAgain = 20 * time.Second

// watchStatics follows the folder until ctx ends.
func (a *Agent) watchStatics(ctx context.Context) {
	for told := false; ctx.Err() == nil; pause(ctx, staticAgain) {
		w, err := watchFile(filepath.Join(a.statics.dir, "any"))
		a.readStatics()
		if err != nil {
			if !told {
				slog.Warn("static pods' files are looked at now and then", "every", staticAgain, "err", err)
			}
			told = true
			continue
		}
		never := make(chan struct{})
		for w.wait(ctx, never) {
			a.readStatics()
		}
		w.close()
	}
}

// readStatics asks for the pods whose files have changed.
func (a *Agent) readStatics() {
	for _, uid := range a.statics.read(time.Now()) {
		a.loop.Add(uid)
	}
}

// isStatic tells a static pod: what its files say counts, not what a pod says of itself.
func (a *Agent) isStatic(pod *v1.Pod) bool { return a.statics.get(string(pod.UID)) != nil }

// mustWait tells whether a static pod may not begin yet: another one of its name still ends, or has containers here, because its
// file changed while no agent ran.
func (a *Agent) mustWait(ctx context.Context, pod *v1.Pod) (bool, error) {
	for _, uid := range a.statics.named(pod.Namespace, pod.Name) {
		if uid != string(pod.UID) {
			return true, nil
		}
	}
	all, err := a.runtime.Containers(ctx)
	if err != nil {
		return false, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range all {
		if c.Pod.Namespace == pod.Namespace && c.Pod.Name == pod.Name && c.Pod.UID != string(pod.UID) && a.pod(c.Pod.UID) == nil {
			return true, nil
		}
	}
	return false, nil
}

// addNamed asks for the static pods of a name, of which one may wait.
func (a *Agent) addNamed(namespace, name string) {
	for _, uid := range a.statics.named(namespace, name) {
		a.loop.Add(uid)
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

// namesake is the pod that has a static one's name in the API, or nil; is says that it is its mirror.
func (a *Agent) namesake(static *v1.Pod) (pod *v1.Pod, is bool) {
	object, ok, err := a.pods.GetIndexer().GetByKey(static.Namespace + "/" + static.Name)
	if err != nil || !ok {
		return nil, false
	}
	pod = object.(*v1.Pod)
	return pod, pod.Spec.NodeName == a.NodeName && pod.Annotations[v1.MirrorPodAnnotationKey] == string(static.UID)
}

// mirrorOf is the mirror of a static pod as the API has it, or nil.
func (a *Agent) mirrorOf(static *v1.Pod) *v1.Pod {
	if pod, is := a.namesake(static); is {
		return pod
	}
	return nil
}

// mirror sees to it that the API shows a static pod as one mirror of its name, and none of a UID that is no static pod's: nil.
func (a *Agent) mirror(ctx context.Context, uid string, static *v1.Pod) error {
	if err := a.removeStrays(ctx, uid, static); err != nil || static == nil || static.DeletionTimestamp != nil {
		return err
	}
	have, is := a.namesake(static)
	switch {
	case have == nil:
		return a.contact.ask(ctx, func(ctx context.Context) error { return a.createMirror(ctx, static) })
	case is && have.DeletionTimestamp == nil:
		return nil
	case have.Spec.NodeName == a.NodeName && metav1.HasAnnotation(have.ObjectMeta, v1.MirrorPodAnnotationKey):
		return a.removeMirror(ctx, have) // Its going is seen, and then another is made.
	}
	return fmt.Errorf("create mirror pod %s/%s: another pod has its name", static.Namespace, static.Name)
}

// removeStrays deletes what says that it mirrors a pod and does not.
func (a *Agent) removeStrays(ctx context.Context, uid string, static *v1.Pod) error {
	found, err := a.pods.GetIndexer().ByIndex(byUID, a.NodeName+"/"+uid)
	if err != nil {
		return fmt.Errorf("find mirror pods: %w", err)
	}
	var errs []error
	for _, obj := range found {
		pod := obj.(*v1.Pod)
		of, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]
		right := static != nil && pod.Namespace == static.Namespace && pod.Name == static.Name
		if mirror && of == uid && !right {
			errs = append(errs, a.removeMirror(ctx, pod))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) removeMirror(ctx context.Context, pod *v1.Pod) error {
	err := a.contact.ask(ctx, func(ctx context.Context) error {
		return a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func (a *Agent) createMirror(ctx context.Context, static *v1.Pod) error {
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find node %s for its mirror pods: %w", a.NodeName, err)
	}
	mirror := static.DeepCopy()
	mirror.Annotations[v1.MirrorPodAnnotationKey] = string(static.UID)
	mirror.UID, mirror.ResourceVersion, mirror.CreationTimestamp, mirror.Status = "", "", metav1.Time{}, v1.PodStatus{}
	yes := true
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	if _, err := a.client.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	return nil
}
