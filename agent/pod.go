package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/api"
)

// volumesRetry is how long after a failure the volumes of a pod that runs are tried again.
const volumesRetry = time.Minute

// containerScheme stands before a container's ID in the API.
const containerScheme = "containerd"

// reconcile brings one pod, named by its UID, a step nearer to what the API wants: look, decide, do, look again, tell.
func (a *Agent) reconcile(ctx context.Context, uid string) (time.Duration, error) {
	containers, err := a.runtime.PodContainers(ctx, uid)
	if err != nil {
		return 0, err
	}
	pod := a.pod(uid)
	if pod == nil && a.statics.mayHave(uid) {
		return staticAgain, nil
	}
	static := a.statics.get(uid)
	if static != nil && static.DeletionTimestamp == nil && len(containers) == 0 {
		if wait, err := a.mustWait(ctx, static); wait || err != nil {
			return staticAgain, err
		}
	}
	mirrorErr := a.mirror(ctx, uid, static) // A static pod runs also where the API cannot be told.
	switch {
	case pod == nil && (mirrorErr != nil || !plainName.MatchString(uid)): // What a mirror says that it shows may be anything.
		return 0, mirrorErr
	case pod == nil:
		return a.reconcileOrphan(ctx, uid, containers)
	}
	if err := checkNames(pod); err != nil {
		return 0, err
	}
	m := a.memories.of(uid)
	pod = a.given(m.newest(pod), containers, m)
	s := a.see(ctx, pod, containers, m)
	d := decide(s)
	workErr := a.prepare(ctx, s, d, m)
	if workErr != nil {
		d.start = nil
	}
	if errors.Is(workErr, errImageAwaited) { // It brings the pod back, or m.due does.
		workErr = nil
	}
	workErr = errors.Join(workErr, a.do(ctx, s, d, m))
	if len(d.stop)+len(d.remove)+len(d.start)+len(d.resize) > 0 {
		if containers, err = a.runtime.PodContainers(ctx, uid); err != nil {
			return 0, err
		}
	}
	s = a.see(ctx, pod, containers, m)
	d = decide(s)
	if err := errors.Join(workErr, later(mirrorErr), later(a.writeStatus(ctx, s, d, m))); err != nil {
		return d.again, err
	}
	if d.ended {
		return d.again, later(a.finish(ctx, pod, containers, m))
	}
	if wait := time.Until(m.due); !m.due.IsZero() && (d.again == 0 || wait < d.again) {
		d.again = max(wait, time.Millisecond)
	}
	return d.again, nil
}

// see gathers what a decision rests on.
func (a *Agent) see(ctx context.Context, pod *v1.Pod, containers []Container, m *memory) seen {
	for i := range containers {
		c := &containers[i]
		if _, read := m.messages[c.ID]; !read && c.State == Exited {
			m.messages[c.ID] = a.terminationMessage(pod, c)
		}
	}
	a.listen(pod, containers, m)
	s := seen{
		pod: pod, containers: containers, unserved: api.Unserved(pod),
		told: m.told, trouble: m.trouble, messages: m.messages, silent: m.silent,
		hooks:     a.hooks.runs(string(pod.UID), containers),
		recursive: handlerCalled(madeBy(containers), a.runtime.Handlers()).RecursiveReadOnly,
		boot:      a.boot, maxBackoff: a.MaxRestartBackoff, now: time.Now(),
	}
	s.parting = a.parting(pod, containers, m, s.now)
	if hasLimitedDir(pod) || limitsStorage(pod) {
		m.measured = a.measure(ctx, pod, containers, m.measured, s.now)
		s.measured = m.measured
	}
	s.resizing = m.resizing
	s.evicted = a.pressure.why(string(pod.UID))
	if len(containers) == 0 && pod.Status.StartTime == nil { // It is new here.
		s.rejected = a.refuses(ctx, pod, m)
		if why := a.pressure.refuses(pod, s.now); s.rejected == nil && why != "" && !a.critical(pod) {
			s.rejected = &failure{reason: reasonEvicted, message: why, rejected: true}
		}
	}
	s.health = a.probes.follow(s, a.reached(pod, m))
	return s
}

// listen notes since when nothing is heard of a container, and says so.
func (a *Agent) listen(pod *v1.Pod, containers []Container, m *memory) {
	for i := range containers {
		c := &containers[i]
		_, noted := m.silent[c.ID]
		switch {
		case c.State != Silent:
			delete(m.silent, c.ID)
		case !noted:
			m.silent[c.ID] = time.Now()
			a.tell(pod, c.Name, v1.EventTypeWarning, reasonUnknown, "The container runtime does not tell whether container "+c.Name+" runs; it is left alone until it does")
		}
	}
}

// prepare sees to all that a pod's containers share: network, volumes, files of /etc. Of a pod that runs already it keeps the
// volumes up to date.
func (a *Agent) prepare(ctx context.Context, s seen, d decision, m *memory) error {
	pod := s.pod
	m.due = time.Time{}
	if d.ended || d.fail != nil || len(s.unserved) > 0 || over(pod) {
		return a.find(ctx, s, d, m)
	}
	handler, err := "", error(nil)
	if len(d.start) > 0 {
		if handler, err = a.handler(ctx, s); err != nil {
			return a.complain(pod, m, "FailedCreatePodSandBox", "Failed to create pod sandbox: ", err)
		}
	}
	if m.ready == nil {
		network, first, err := a.connect(ctx, pod)
		if err != nil {
			a.counts.notSetUp(pod)
			return a.complain(pod, m, "FailedCreatePodSandBox", "Failed to create pod sandbox: ", err)
		}
		m.ready, m.cleaned = &ready{network: network, firstUser: first}, false
	}
	m.ready.handler, m.ready.recursive = handler, handlerCalled(handler, a.runtime.Handlers()).RecursiveReadOnly
	if len(d.start) == 0 && !showsObjects(pod) {
		return nil
	}
	volumes, err := a.volumes(ctx, pod, m)
	if errors.Is(err, errImageAwaited) {
		return err
	}
	if err != nil && len(d.start) == 0 {
		_ = a.complain(pod, m, "FailedMount", "", err) // What runs keeps the contents that it has.
		m.due = s.now.Add(volumesRetry)
		return nil
	}
	if err != nil {
		return a.complain(pod, m, "FailedMount", "", err)
	}
	m.ready.volumes, m.due = volumes, time.Time{}
	for _, v := range volumes {
		m.due = sooner(m.due, v.due)
	}
	if m.ready.files == nil && len(d.start) > 0 {
		if m.ready.files, err = a.podFiles(pod, a.where(m).podIPs(pod)); err != nil {
			return a.complain(pod, m, "FailedMount", "", err)
		}
	}
	m.complaint = ""
	return nil
}

// find learns where a pod is that is to end, for its last hooks: the agent that started it may have been killed before it told.
func (a *Agent) find(ctx context.Context, s seen, d decision, m *memory) error {
	called := slices.ContainsFunc(d.stop, func(st stop) bool { return st.hook })
	if !called || m.ready != nil || s.pod.Spec.HostNetwork || s.pod.Status.PodIP != "" {
		return nil
	}
	network, first, err := a.connect(ctx, s.pod)
	if err != nil {
		return fmt.Errorf("find the pod's address: %w", err)
	}
	m.ready, m.cleaned = &ready{network: network, firstUser: first}, false
	return nil
}

// connect makes what a pod's processes are in: namespaces with a network, and users of their own if the pod wants those.
func (a *Agent) connect(ctx context.Context, pod *v1.Pod) (network PodNetwork, firstUser uint32, err error) {
	hostname, err := kernelHostname(pod, a.NodeName, a.ClusterDomain)
	if err != nil {
		return PodNetwork{}, 0, err
	}
	if firstUser, err = a.users.of(pod, a.dirs); err != nil {
		return PodNetwork{}, 0, err
	}
	network, err = a.network.Setup(ctx, PodNetworkConfig{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name,
		Hostname: hostname, HostNetwork: pod.Spec.HostNetwork, FirstUser: firstUser, HostPorts: hostPorts(pod)})
	return network, firstUser, err
}

// over says that no container of the pod is to be started any more.
func over(pod *v1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

func showsObjects(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, showsObject)
}

func showsObject(v v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil
}

// complain tells of an error in an Event, once, and returns it.
func (a *Agent) complain(pod *v1.Pod, m *memory, reason, prefix string, err error) error {
	if m.complaint != err.Error() {
		m.complaint = err.Error()
		a.events.Event(pod, v1.EventTypeWarning, reason, prefix+err.Error())
	}
	return fmt.Errorf("prepare pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// do carries out a decision. What hinders a single container becomes its trouble, not an error.
func (a *Agent) do(ctx context.Context, s seen, d decision, m *memory) error {
	var errs []error
	for _, st := range d.stop {
		if st.why != "" && s.pod.Name != "" {
			a.tell(s.pod, st.name, v1.EventTypeNormal, "Killing", st.why)
		}
		t := m.told[st.id]
		t.asked = cmp.Or(t.asked, s.now)
		if st.hook {
			a.hooks.start(s.pod, preStop, target{st.id, a.reached(s.pod, m), containerOf(s.pod, st.name)})
			m.told[st.id] = t
			continue
		}
		t.signalled = cmp.Or(t.signalled, s.now)
		m.told[st.id] = t
		if err := a.runtime.Signal(ctx, st.id, st.kill); err != nil && !errors.Is(err, ErrNoContainer) {
			errs = append(errs, fmt.Errorf("stop container %s: %w", st.id, err))
		}
	}
	for _, c := range d.remove {
		errs = append(errs, a.removeContainer(ctx, c), a.removeTraces(s.pod, c))
		delete(m.told, c.ID)
		delete(m.messages, c.ID)
		delete(m.silent, c.ID)
	}
	errs = append(errs, a.resize(ctx, s, d, m))
	for _, st := range d.start {
		errs = append(errs, a.start(ctx, s, st, m))
	}
	return errors.Join(errs...)
}

// removeContainer deletes a container that is not alive. One that was made but never started may still hold a process.
func (a *Agent) removeContainer(ctx context.Context, c *Container) error {
	if c.State == Created {
		if err := a.runtime.Signal(ctx, c.ID, true); err != nil && !errors.Is(err, ErrNoContainer) {
			return fmt.Errorf("kill what is left of container %s: %w", c.ID, err)
		}
	}
	if err := a.runtime.Remove(ctx, c.ID); err != nil && !errors.Is(err, ErrNoContainer) {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}

// removeTraces takes away what a removed container had besides itself: the mounts of parts of volumes, its log and its
// termination message, which nobody can ask for any more.
func (a *Agent) removeTraces(pod *v1.Pod, c *Container) error {
	if pod.UID == "" {
		return nil // Of a pod that is gone all is removed together.
	}
	logs, err := filepath.Glob(a.dirs.log(pod, c.Name, c.Attempt) + "*") // With what was rotated away.
	if err != nil {
		return err
	}
	errs := []error{
		removeParts(a.dirs.parts(pod.UID, c.Name, c.Attempt)),
		os.RemoveAll(a.dirs.message(pod.UID, c.Name, c.Attempt)),
	}
	for _, log := range logs {
		errs = append(errs, os.Remove(log))
	}
	return errors.Join(errs...)
}

// removeParts removes a folder with mounts in it, if it is there.
func removeParts(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := UnmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// start starts one container, or notes why it could not.
func (a *Agent) start(ctx context.Context, s seen, st start, m *memory) error {
	pod, c := s.pod, st.container
	image, ok := a.image(ctx, pod, c, m)
	if !ok {
		return nil
	}
	config, err := a.containerConfig(ctx, pod, st, m.ready, image)
	if err == nil {
		config.PIDOf, err = s.joins(c.Name)
	}
	if err != nil {
		m.trouble[c.Name] = trouble{reason: reasonConfigError, message: err.Error(), at: s.now}
		return nil
	}
	if err := makeLog(config.LogPath); err != nil {
		m.retry(c.Name, reasonCreateError, err.Error(), time.Now(), a.MaxRestartBackoff)
		return nil
	}
	if err := a.limitPod(ctx, pod, m, true); err != nil {
		return err
	}
	err = a.runtime.Start(ctx, config)
	var failed *NotStarted
	switch made := errors.As(err, &failed); {
	case ctx.Err() != nil && err != nil:
		return ctx.Err()
	case err != nil && !made:
		m.retry(c.Name, reasonCreateError, err.Error(), time.Now(), a.MaxRestartBackoff)
		return nil
	}
	delete(m.trouble, c.Name)
	a.tell(pod, c.Name, v1.EventTypeNormal, "Created", "Container created")
	if err != nil {
		a.tell(pod, c.Name, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return nil
	}
	a.tell(pod, c.Name, v1.EventTypeNormal, "Started", "Container started")
	a.hooks.start(pod, postStart, target{config.ID, a.reached(pod, m), c})
	return nil
}

// writeStatus tells the API how the pod is, if that has changed.
func (a *Agent) writeStatus(ctx context.Context, s seen, d decision, m *memory) error {
	status := podStatus(s, d, a.where(m))
	if was := s.pod.Status.Phase; status.Phase == v1.PodRunning && (was == "" || was == v1.PodPending) && !m.running {
		m.running = true
		a.counts.running.Observe(time.Since(m.since).Seconds())
	}
	if apiequality.Semantic.DeepEqual(status, s.pod.Status) {
		return nil
	}
	uid, static := s.pod.UID, a.isStatic(s.pod)
	if static {
		mirror := a.mirrorOf(s.pod)
		if mirror == nil {
			return nil // There is nowhere to write it yet.
		}
		uid = mirror.UID
	}
	patch, err := statusPatch(uid, &s.pod.Status, &status)
	if err != nil {
		return err
	}
	var written *v1.Pod
	err = a.contact.ask(ctx, func(ctx context.Context) error {
		written, err = a.client.CoreV1().Pods(s.pod.Namespace).Patch(ctx, s.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // Gone, or replaced by another pod of its name: the informer will tell.
		return nil
	case err != nil:
		return fmt.Errorf("write the status of pod %s/%s: %w", s.pod.Namespace, s.pod.Name, err)
	}
	a.counts.changed(s.pod, &status)
	m.written = written
	if static {
		m.written = seenOfStatic(s.pod, written)
	}
	if d.fail != nil && s.pod.Status.Reason != d.fail.reason {
		a.events.Event(s.pod, v1.EventTypeWarning, d.fail.reason, d.fail.message)
	}
	for _, e := range slices.Concat(statusEvents(s.pod, &status), resizeEvents(s.pod, &status)) {
		a.tell(s.pod, e.container, e.kind, e.reason, e.message)
	}
	return nil
}

// statusPatch says what changes from one status to the next, and nothing of what others keep there. The UID makes it fail if the
// name now belongs to another pod.
func statusPatch(uid types.UID, from, to *v1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(map[string]any{"status": from})
	if err != nil {
		return nil, fmt.Errorf("encode a pod's status: %w", err)
	}
	after, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": to})
	if err != nil {
		return nil, fmt.Errorf("encode a pod's status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compare a pod's status: %w", err)
	}
	return patch, nil
}
