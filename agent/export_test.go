package agent

import (
	"context"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/api/stats"
)

// RunPods runs the pod loop without node and server, which need real time.
func (a *Agent) RunPods(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.begin(ctx)
	a.runPods(ctx)
	a.wait()
}

// ReadStatics looks at the static pods' files, as a change in their folder makes the agent do.
func (a *Agent) ReadStatics() { a.readStatics() }

// OnEvent calls do with each Event that the agent makes.
func (a *Agent) OnEvent(do func(*v1.Event)) { a.cast.StartEventWatcher(do) }

// SetAppArmor says whether the kernel has it.
func (a *Agent) SetAppArmor(has bool) { a.appArmor = has }

// SetSELinux says whether the kernel has it.
func (a *Agent) SetSELinux(has bool) { a.seLinux = has }

// VolumeStats is what the summary says of a pod's volumes.
func (a *Agent) VolumeStats(pod *v1.Pod) []stats.Volume { return a.volumeStats(pod, a.claimDirs()) }

// LookAtNode registers the node and writes what has changed.
func (a *Agent) LookAtNode(ctx context.Context) (ready bool, err error) {
	_, ready, err = a.lookAtNode(ctx)
	return ready, err
}

// Quit ends what New began, for an agent that never ran.
func (a *Agent) Quit() {
	a.cast.Shutdown()
	a.listener.Close()
}

// SetDiskShare says how full the disk is.
func (a *Agent) SetDiskShare(percent func() int) {
	a.disk = func(string) (int, error) { return percent(), nil }
}

// RunImages collects images until stop is called.
func (a *Agent) RunImages(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { a.runImages(ctx); close(done) }()
	return func() { cancel(); <-done }
}

// Dirs tells where the agent keeps what a pod left.
func (a *Agent) Dirs() (pods, secrets, logs string) {
	return a.dirs.pods(), a.dirs.secrets(), a.dirs.logs()
}

// WithoutHugePages has the agent forget those of the host: the test's node has none.
func (a *Agent) WithoutHugePages() {
	maps.DeleteFunc(a.capacity, func(name v1.ResourceName, _ resource.Quantity) bool {
		return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
	})
}

// Allocatable is what the node has for pods.
func (a *Agent) Allocatable() v1.ResourceList { return a.allocatable() }

// RunNode keeps the API's Node and Lease true until ctx ends.
func (a *Agent) RunNode(ctx context.Context) { a.runNode(ctx) }
