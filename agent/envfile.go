package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// maxEnvFile bounds a file that variables are taken from.
const maxEnvFile = 1 << 20

// fromFile takes a variable from a file that an earlier container has left in a volume; ok is false for an optional one that is not
// there. https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/
func fromFile(ref *v1.FileKeySelector, volumes map[string]volume) (value string, ok bool, err error) {
	v, known := volumes[ref.VolumeName]
	if !known {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	text, err := readEnvFile(v.path, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	value, err = keyOfEnvFile(text, ref.Key)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("couldn't parse env file %s: %w", ref.Path, err)
	case value == "" && !isTrue(ref.Optional): // One that is there and empty counts as missing, as in Kubernetes.
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, value != "", nil
}

// readEnvFile reads a regular file of a volume: containers may have put links there, pipes that nobody writes to, and devices that do
// something as soon as they are opened.
func readEnvFile(volume, path string) (string, error) {
	f, err := openRegular(volume, path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err == nil && len(text) > maxEnvFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxEnvFile)
	}
	return string(text), err
}

// openRegular opens a file for reading once it is known to be a regular one. To the path the volume is the root of all: absolute links
// begin there, and none leads out.
func openRegular(volume, path string) (*os.File, error) {
	place, err := openPlace(volume, path, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	info, err := place.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", place.Fd()))
}

// keyOfEnvFile finds the first value of a key, "" if it has none. The syntax is a part of a shell's: KEY='value', in which the value may
// have several lines and nothing in it means anything else than itself.
func keyOfEnvFile(text, key string) (string, error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxEnvFile+1)
	number := 0
	next := func() bool { number++; return lines.Scan() }
	bad := func(what string) error {
		return fmt.Errorf("invalid environment variable format at line %d: %s", number, what)
	}
	for next() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, assigns := strings.Cut(line, "=")
		switch {
		case !assigns:
			return "", bad("missing '='")
		case strings.TrimRight(name, " \t") == "":
			return "", bad("empty variable name")
		case strings.TrimRight(name, " \t") != name:
			return "", bad("whitespace before '=' is not allowed")
		case strings.TrimLeft(rest, " \t") != rest: // To a shell the value ends here.
			if name == key {
				return "", nil
			}
			continue
		case !strings.HasPrefix(rest, "'"):
			return "", bad("value must be enclosed in single quotes")
		}
		value, after, closed := strings.Cut(rest[1:], "'")
		for !closed {
			if !next() {
				return "", bad("unclosed single quote")
			}
			var more string
			more, after, closed = strings.Cut(lines.Text(), "'")
			value += "\n" + more
		}
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return "", bad("unexpected content after closing quote")
		}
		if name == key {
			return value, nil
		}
	}
	return "", lines.Err()
}
