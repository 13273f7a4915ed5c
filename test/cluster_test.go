package test

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestCluster holds one cluster to all promises that need none for themselves.
func TestCluster(t *testing.T) {
	pages := reserveHugePages(t) // An agent counts them when it starts.
	n := newNode(t)
	n.addDeclaring("declaring", "/etc", "/new")
	n.start()
	for i, promise := range []struct {
		name string
		test func(*testing.T, *shell)
	}{
		{"the walk", testWalk},
		{"a wrong type is refused", testWrongType},
		{"get prints tables and everything else", testGet},
		{"the other verbs work on these kinds", testVerbs},
		{"edit changes what the editor changed", testEdit},
		{"server-side apply knows whose a field is", testServerSideApply},
		{"logs come, and go on coming", testLogs},
		{"a terminal is one", testTerminal},
		{"debug looks into a running pod", testDebug},
		{"a service account has a token", testTokens},
		{"drain waits for a budget", testDrain},
		{"a taint drives out who does not tolerate it", testTaint},
		{"top sees who uses what", testTop},
		{"a pod is resized as it runs", testResize},
		{"a pod is resized as a whole", testResizeWhole},
		{"pods have what they may have, and no more", testLimits},
		{"huge pages are counted, and limited", func(t *testing.T, s *shell) { testHugePages(t, s, pages) }},
		{"root of a pod may be nobody on the node", testUsers},
		{"rules say what an exit code leads to", testRestartRules},
		{"streams are kept apart", testStreams},
		{"attach types to the first process", testAttach},
		{"a WebSocket is enough", testSockets},
		{"a port of a pod comes to who asks", testForward},
		{"100 MiB come through unharmed", testHundredMegabytes},
		{"the proxy leads to pods, services and nodes", testProxy},
		{"a service has one address and three names", testServiceNames},
		{"a service balances over all ready pods", testBalance},
		{"a service without pods refuses at once", testScaledToZero},
		{"a service does not answer to the outside", testOutside},
		{"the lessons about services are true", testServiceLessons},
		{"a proxy works alone", testProxyAlone},
		{"the lessons about volumes are true", testVolumeLessons},
		{"no path in a volume leads out of it", testPathAttacks},
		{"what an image declares as a volume is a container's own", testDeclaredVolumes},
		{"images are listed, and kept while they are used", testImageCommand},
		{"the anonymous are told next to nothing", testAnonymous},
		{"no packet of the cluster leaves the node", testNoLeak},
		{"a deleted pod is replaced", testReplaced},
		{"a rollout loses no request", testRollout},
		{"the lessons of rollouts", testRolloutLessons},
		{"a rollout whose pods cannot be made fails in its time", testRolloutWithoutPods},
		{"a container that exits is restarted with back-off", testBackOff},
		{"an image that does not exist is told of", testMissingImage},
		{"a wrong name is not found", testNotFound},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.test(t, n.namespace(t, fmt.Sprintf("test-%d", i))) })
	}
}

// namespace opens a shell on the node, in a new Kubernetes namespace that goes when the test ends.
func (n *node) namespace(t *testing.T, name string) *shell {
	t.Helper()
	s := n.shell(t)
	s.do("kubectl create namespace " + name)
	config := filepath.Join(n.dir, name+".kubeconfig")
	s.do("cp " + s.config + " " + config)
	s.config, s.space = config, name
	s.do("kubectl config set-context --current --namespace=" + name)
	t.Cleanup(func() {
		if t.Failed() {
			n.report(t)
		}
		s.do("kubectl delete namespace " + name)
	})
	return s
}
