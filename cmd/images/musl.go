package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// finishResolver adds a program that looks names up with musl's resolver, which half of the world's images use and which
// asks in its own way. Debian has the library, for who builds with it, but no program that uses it.
func finishResolver(ctx context.Context, root tree) error {
	program, err := buildWithMusl(ctx, root, "files/lookup.c")
	if err != nil {
		return fmt.Errorf("build a program with musl: %w", err)
	}
	root.remove(func(name string) bool { return strings.Contains(name, "musl") })
	root.write("usr/bin/musl-lookup", program)
	lookup := root["usr/bin/musl-lookup"]
	lookup.mode = 0o755
	root["usr/bin/musl-lookup"] = lookup
	return finishDebian(ctx, root)
}

// buildWithMusl compiles a source file against the headers and the library of musl-dev, which is in root.
func buildWithMusl(ctx context.Context, root tree, file string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "skiff-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var headers, libraries string
	for name, f := range root {
		if !underAny(name, "usr/include/*-linux-musl", "usr/lib/*-linux-musl") || f.data == nil {
			continue
		}
		switch path.Base(name) {
		case "netdb.h":
			headers = filepath.Join(dir, path.Dir(name))
		case "libc.a":
			libraries = filepath.Join(dir, path.Dir(name))
		}
		if err := writeUnder(dir, name, f.data); err != nil {
			return nil, err
		}
	}
	if headers == "" || libraries == "" {
		return nil, errors.New("musl-dev has no headers, or no libc.a")
	}
	text, err := source.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := writeUnder(dir, "program.c", text); err != nil {
		return nil, err
	}
	library := func(name string) string { return filepath.Join(libraries, name) }
	program := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, "gcc", "-static", "-nostdinc", "-nostdlib", "-fno-stack-protector", "-Os", "-s", "-Wl,--build-id=none",
		"-isystem", headers, "-o", program, library("crt1.o"), library("crti.o"), filepath.Join(dir, "program.c"), library("libc.a"), "-lgcc", library("crtn.o"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gcc: %w: %s", err, firstLine(string(out)))
	}
	return os.ReadFile(program)
}

func writeUnder(dir, name string, data []byte) error {
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o600)
}
