// Command kubectl is the real kubectl, of the Kubernetes release that skiff follows, so that nobody need look for one that
// fits. It is a binary of its own because it would more than double the size of skiff's.
//
// In Kubernetes: cmd/kubectl. Left out: nothing.
package main

import (
	"os"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // Ways to log in that a kubeconfig may name.
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	// Plugins are looked for before the flags are read, and that may log already.
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // Prints it as kubectl does, and exits.
	}
}
