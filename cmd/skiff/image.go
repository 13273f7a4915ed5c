package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"skiff/agent/containerd"

	"github.com/spf13/cobra"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Import and list the node's images"}
	cmd.AddCommand(imageImportCommand(), imageListCommand())
	return cmd
}

// withRuntime calls do with the containerd of a running cluster.
func withRuntime(ctx context.Context, d dirs, do func(*containerd.Runtime) error) error {
	if err := d.absolute(); err != nil {
		return err
	}
	s := settings{options: options{dirs: d}}
	config := s.runtimeConfig()
	if _, err := os.Stat(config.Socket); err != nil {
		return fmt.Errorf("no containerd runs for the cluster in %s: start it with `skiff up`", d.run)
	}
	r, err := containerd.Connect(ctx, config)
	if err != nil {
		return err
	}
	defer r.Close()
	return do(r)
}

func imageImportCommand() *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import the images of an OCI or docker tar into the running node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(cmd.Context(), d, func(r *containerd.Runtime) error {
				names, err := r.Import(cmd.Context(), args[0])
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), "imported", name)
				}
				return err
			})
		},
	}
	d.flags(cmd)
	return cmd
}

func imageListCommand() *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the node's images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRuntime(cmd.Context(), d, func(r *containerd.Runtime) error {
				return listImages(cmd.Context(), r, cmd.OutOrStdout())
			})
		},
	}
	d.flags(cmd)
	return cmd
}

func listImages(ctx context.Context, r *containerd.Runtime, out io.Writer) error {
	images, err := r.Images(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tSIZE")
	for _, image := range images {
		digest := strings.TrimPrefix(image.Digest, "sha256:")
		for _, name := range image.Names {
			fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", name, digest[:min(12, len(digest))], float64(image.Size)/1e6)
		}
	}
	return w.Flush()
}
