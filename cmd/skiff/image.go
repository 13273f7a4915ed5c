package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"skiff/agent"
	"skiff/agent/containerd"

	"github.com/spf13/cobra"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Import, list and remove the node's images"}
	cmd.AddCommand(imageImportCommand(), imageListCommand(), imageRemoveCommand())
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

func imageRemoveCommand() *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove images that no container uses",
		Long:  "Remove images that no container uses. What a file in DATA/images holds comes back with the next start: remove the file too.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(cmd.Context(), d, func(r *containerd.Runtime) error {
				for _, ref := range args {
					name, err := removeImage(cmd.Context(), r, ref)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), "removed", name)
				}
				return nil
			})
		},
	}
	d.flags(cmd)
	return cmd
}

// removeImage takes a name off an image, unless it is the last one of an image that a container was made of.
func removeImage(ctx context.Context, r *containerd.Runtime, ref string) (name string, err error) {
	image, err := r.Image(ctx, ref)
	if err != nil {
		return "", err
	}
	images, err := r.Images(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(images, func(other agent.Image) bool { return other.Digest == image.Digest })
	containers, err := r.Containers(ctx)
	if err != nil {
		return "", err
	}
	for _, c := range containers {
		if c.ImageID == image.Digest && (i < 0 || len(images[i].Names) < 2) {
			return "", fmt.Errorf("image %s is used by pod %s/%s: delete the pod first", image.Names[0], c.Pod.Namespace, c.Pod.Name)
		}
	}
	return image.Names[0], r.RemoveImage(ctx, image.Names[0])
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
