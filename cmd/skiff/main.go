// Command skiff is a whole small cluster in one binary: an API server with its store, controllers, a scheduler, and a node
// with its agent, proxy and DNS. `skiff server` runs it; `skiff up` does so in the background.
//
// This is the only place that knows concrete types, reads flags and exits. A command has a file of its own, but for the
// components that run alone, which share components.go.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// version is set by the build (-ldflags "-X main.version=...").
var version = "dev"

func main() {
	debug.SetGCPercent(growthQuiet)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitStatus(run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

// exitStatus tells the user what went wrong, in one line, and the shell that it did.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if kubectl, ok := err.(*exec.ExitError); ok { // It has said already what is wrong. Of other programs that is for us to say.
		return kubectl.ExitCode()
	}
	fmt.Fprintf(stderr, "skiff: %v\n", err)
	return 1
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:           "skiff",
		Short:         "A small cluster that speaks the Kubernetes API",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.DisableSuggestions = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
	})
	root.AddCommand(
		serverCommand(), upCommand(), downCommand(), statusCommand(), checkCommand(), kubectlCommand(), imageCommand(), snapshotCommand(),
		controllerCommand(), schedulerCommand(), proxyCommand(), dnsCommand(), agentCommand(), versionCommand(),
	)
	quietLibraries()
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") {
		return fmt.Errorf("%w; `skiff --help` lists the commands", err)
	}
	return err
}

// quietLibraries has what client-go and its relatives log appear at debug level: what matters of it comes back to skiff as
// errors, and is logged there once.
func quietLibraries() {
	klog.SetSlogLogger(slog.New(asDebug{}))
}

// asDebug is a slog.Handler that hands everything on to the default logger, as debugging.
type asDebug struct{}

func (asDebug) Enabled(ctx context.Context, _ slog.Level) bool {
	return slog.Default().Enabled(ctx, slog.LevelDebug)
}

func (asDebug) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return slog.Default().Handler().Handle(ctx, r)
}

func (h asDebug) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h asDebug) WithGroup(string) slog.Handler      { return h }

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of skiff and of the API it serves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "skiff %s, Kubernetes API %s\n", version, kubernetesVersion)
			return err
		},
	}
}
