package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"
)

// loaded are libraries that glibc opens by itself when it needs them.
var loaded = [...]string{"libgcc_s.so.1"}

// shakeLibraries removes the shared libraries that no program in the tree uses, because what an image needs is less than
// what its packages depend on. A library that is used but missing is an error: the image would not run.
func (t tree) shakeLibraries() error {
	libraries := map[string]string{} // By the name that programs ask for.
	var queue []string
	for _, name := range t.names() {
		if base := path.Base(name); isLibrary(name) {
			libraries[base] = name
		} else if t[name].kind == tar.TypeReg {
			queue = append(queue, name)
		}
	}
	for _, base := range loaded {
		if name, ok := libraries[base]; ok {
			queue = append(queue, name)
		}
	}
	used := map[string]bool{}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		needed, err := t.needs(name)
		if err != nil {
			return err
		}
		for _, base := range needed {
			library, ok := libraries[base]
			if !ok {
				return fmt.Errorf("%s needs %s, which is in no package", name, base)
			}
			if !used[library] {
				used[library] = true
				queue = append(queue, library)
			}
		}
		used[name] = true
	}
	t.remove(func(name string) bool { return isLibrary(name) && !used[name] })
	return nil
}

// isLibrary reports whether the file is one that the dynamic linker finds by its name.
func isLibrary(name string) bool {
	dir, base := path.Split(name)
	inPath := dir == "usr/lib/" || dir == "usr/lib64/" || strings.HasPrefix(dir, "usr/lib/") && strings.Count(dir, "/") == 3
	return inPath && strings.Contains(base, ".so") && !strings.HasPrefix(base, "ld-linux")
}

// needs returns what the file asks the dynamic linker for; a library that is a symlink asks for what it points to.
func (t tree) needs(name string) ([]string, error) {
	f := t[name]
	if f.kind == tar.TypeSymlink {
		return []string{path.Base(f.target)}, nil
	}
	if !bytes.HasPrefix(f.data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	program, err := elf.NewFile(bytes.NewReader(f.data))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	needed, err := program.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	// The dynamic linker is named by the program's interpreter and is there as itself.
	return slices.DeleteFunc(needed, func(base string) bool { return strings.HasPrefix(base, "ld-linux") }), nil
}
