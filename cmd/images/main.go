// Images makes the container images that the examples and tests use, for machines that reach no registry.
//
// An image is made of Debian packages, without root and without running a package's scripts: apt says which packages
// are needed, dpkg-deb opens them, and their files are merged in memory into one layer. Owners and modes are the
// packages' own, everything is sorted and dated 1970, so the same packages give the same digest on every machine.
// The result is an OCI archive that carries the name that manifests use: "image: nginx" finds it.
//
// An archive that was made from the same packages by the same program is left alone.
//
// In Kubernetes: images come from a registry, and so they do in skiff, if one answers. These stand in where none does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

const usage = `usage: images [-out DIR] [NAME...]

Makes DIR/NAME.tar for each image NAME (default: all) from Debian packages.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	out := flags.String("out", "bin/images", "directory to write to")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	chosen, err := choose(recipes(), flags.Args())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return fmt.Errorf("make the output directory: %w", err)
	}
	packages, err := openApt(ctx)
	if err != nil {
		return err
	}
	for _, r := range chosen {
		file := filepath.Join(*out, r.name+".tar")
		made, err := ensure(ctx, packages, r, file)
		if err != nil {
			return fmt.Errorf("make %s: %w", file, err)
		}
		fmt.Fprintf(stdout, "%s: %s, %s\n", file, r.ref(), made)
	}
	return nil
}

// choose returns the recipes of these names, or all of them.
func choose(all []recipe, names []string) ([]recipe, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []recipe
	for _, name := range names {
		i := slices.IndexFunc(all, func(r recipe) bool { return r.name == name })
		if i < 0 {
			var known []string
			for _, r := range all {
				known = append(known, r.name)
			}
			return nil, fmt.Errorf("no image %q: there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// ensure makes the image of r in file, unless it is there, and says which.
func ensure(ctx context.Context, packages *apt, r recipe, file string) (string, error) {
	debs, err := packages.closure(ctx, r.packages)
	if err != nil {
		return "", err
	}
	debs = slices.DeleteFunc(debs, func(d deb) bool { return r.leavesOut(d.name) })
	if inputs, err := fingerprint(debs); err != nil {
		return "", err
	} else if have, err := readInputs(file); err == nil && have == inputs {
		return "up to date", nil
	}

	dir, err := os.MkdirTemp("", "skiff-images-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if debs, err = packages.download(ctx, r, debs, dir); err != nil {
		return "", err
	}
	root := newTree()
	for _, d := range debs {
		if err := root.addPackage(ctx, filepath.Join(dir, d.file)); err != nil {
			return "", fmt.Errorf("unpack %s: %w", d.file, err)
		}
	}
	if err := r.finish(ctx, root); err != nil {
		return "", err
	}
	inputs, err := fingerprint(debs)
	if err != nil {
		return "", err
	}
	digest, err := writeImage(file, r, root, inputs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("made from %d packages, %s", len(debs), digest), nil
}
