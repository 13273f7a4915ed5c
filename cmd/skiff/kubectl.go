package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir DIR] ...",
		Short: "Run the real kubectl, configured for this cluster",
		Long: `Run the real kubectl (the one beside skiff, else the one on PATH) with this cluster's kubeconfig.
All arguments are kubectl's, but for a --data-dir that comes first.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, args := dataDirArgument(args)
			if err := d.absolute(); err != nil {
				return err
			}
			kubectl, err := findKubectl()
			if err != nil {
				return err
			}
			if _, err := os.Stat(d.kubeconfig()); err != nil {
				return fmt.Errorf("there is no cluster in %s: start one with `skiff up`", d.data)
			}
			c := exec.CommandContext(cmd.Context(), kubectl, args...)
			c.Env = append(os.Environ(), "KUBECONFIG="+d.kubeconfig())
			c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
			// Ctrl-C reaches kubectl itself, which is in the foreground too: it must not be killed for it.
			c.Cancel = func() error { return nil }
			return c.Run()
		},
	}
}

// dataDirArgument takes a leading --data-dir off kubectl's arguments.
func dataDirArgument(args []string) (dirs, []string) {
	d := dirs{data: "/var/lib/skiff", run: "/run/skiff"}
	if len(args) > 0 {
		if value, ok := strings.CutPrefix(args[0], "--data-dir="); ok {
			d.data, args = value, args[1:]
		} else if args[0] == "--data-dir" && len(args) > 1 {
			d.data, args = args[1], args[2:]
		}
	}
	return d, args
}

func findKubectl() (string, error) {
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), "kubectl")
			if _, err := os.Stat(beside); err == nil {
				return beside, nil
			}
		}
	}
	path, err := exec.LookPath("kubectl")
	if err != nil {
		return "", errors.New("there is no kubectl beside skiff and none on PATH: `make build` makes one")
	}
	return path, nil
}
