package containerd

import (
	"strconv"
	"testing"

	"skiff/agent"
	"skiff/agent/runtimetest"
)

func TestSuite(t *testing.T) { runtimetest.Run(t, suite{newNode(t)}) }

// suite is a node with a real containerd for the suite that the runtime in memory passes too.
type suite struct{ *node }

func (s suite) Runtime() agent.Runtime { return s.runtime }

func (s suite) Config(name string) agent.ContainerConfig { return s.config(name) }

func (s suite) Ending(name, out, err string, status int) agent.ContainerConfig {
	return s.config(name, s.Command(out, err, status)[1:]...)
}

// Begun has nothing to do: the program does it.
func (s suite) Begun(agent.ContainerConfig) {}

func (s suite) Command(out, err string, status int) []string {
	return []string{"/box", "echo", out, err, strconv.Itoa(status)}
}

func (s suite) Reopen() {
	s.t.Helper()
	if err := s.runtime.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.node.runtime = s.open()
}
