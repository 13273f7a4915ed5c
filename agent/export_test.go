package agent

import "context"

// RunPods runs the pod loop without node and server, which need real time.
func (a *Agent) RunPods(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.sources.begin(ctx)
	a.pulls.begin(ctx)
	a.runPods(ctx)
	a.sources.wait()
	a.pulls.wait()
}

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

// Dirs tells where the agent keeps what a pod left.
func (a *Agent) Dirs() (pods, secrets, logs string) {
	return a.dirs.pods(), a.dirs.secrets(), a.dirs.logs()
}
