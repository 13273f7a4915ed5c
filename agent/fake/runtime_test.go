package fake_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"skiff/agent"
	"skiff/agent/fake"
	"skiff/agent/runtimetest"
)

func TestRuntime(t *testing.T) {
	n := &node{t, fake.NewRuntime("box"), t.TempDir(), map[string][]string{}}
	n.runtime.Install("box", func(_ context.Context, args []string, s agent.Streams) int {
		fmt.Fprintln(s.Stdout, args[0])
		fmt.Fprintln(s.Stderr, args[1])
		status, err := strconv.Atoi(args[2])
		if err != nil {
			t.Error(err)
		}
		return status
	})
	runtimetest.Run(t, n)
}

// node is a runtime in memory for the suite. What a container does, it says after the start.
type node struct {
	t       *testing.T
	runtime *fake.Runtime
	dir     string
	endings map[string][]string // Of containers that end, by ID: what they say, and their status.
}

func (n *node) Runtime() agent.Runtime { return n.runtime }

func (n *node) Config(name string) agent.ContainerConfig {
	return agent.ContainerConfig{ID: "pod-1-" + name + "-0", Pod: agent.PodRef{UID: "pod-1", Namespace: "default", Name: "one"},
		Name: name, Image: "box", LogPath: filepath.Join(n.dir, name+".log")}
}

func (n *node) Ending(name, out, err string, status int) agent.ContainerConfig {
	c := n.Config(name)
	n.endings[c.ID] = []string{out, err, strconv.Itoa(status)}
	return c
}

func (n *node) Begun(c agent.ContainerConfig) {
	n.t.Helper()
	say := func(stream, line string) {
		if err := n.runtime.Say(c.ID, stream, line); err != nil {
			n.t.Fatal(err)
		}
	}
	end, ends := n.endings[c.ID]
	if !ends {
		say("stdout", "holding")
		return
	}
	say("stdout", end[0])
	say("stderr", end[1])
	status, err := strconv.Atoi(end[2])
	if err == nil {
		err = n.runtime.Exit(c.ID, status)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) Command(out, err string, status int) []string {
	return []string{"box", out, err, strconv.Itoa(status)}
}

// Reopen has nothing to do: the containers are in the runtime.
func (n *node) Reopen() {}
