package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyPagesThatAreAsInTheProgramsFileAreGivenBack(t *testing.T) {
	const smaps = `00400000-02166000 r-xp 00000000 08:01 42                         /usr/bin/skiff
Rss:               25560 kB
Anonymous:             0 kB
02166000-042e0000 r--p 01d66000 08:01 42                         /usr/bin/skiff
Anonymous:             0 kB
042e0000-042f0000 r--p 03ee0000 08:01 42                         /usr/bin/skiff
Anonymous:             8 kB
042f0000-043b4000 rw-p 03ef0000 08:01 42                         /usr/bin/skiff
Anonymous:             0 kB
043b4000-043f0000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000010000 r--s 00000000 08:01 43                 /var/lib/skiff/state.db
Anonymous:             0 kB
7f0000020000-7f0000030000 r--p 00000000 08:01 44                 /opt/usr/bin/skiff
Anonymous:             0 kB
7f0000040000-7f0000050000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	got, err := unchanged(strings.NewReader(smaps), "/usr/bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	want := []part{{0x400000, 0x2166000}, {0x2166000, 0x42e0000}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(part{})); diff != "" {
		t.Error(diff)
	}
}

func TestTheProgramRunsOnWithoutThePagesOfItsStart(t *testing.T) {
	before := programPages(t)
	if err := unmapProgram(); err != nil {
		t.Fatal(err)
	}
	if after := programPages(t); after >= before {
		t.Errorf("%d kB of the program were in memory, and %d kB are after they were given back", before, after)
	}
}

// programPages is how much of the program's file is in this process's memory, in kB.
func programPages(t *testing.T) (sum int) {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer smaps.Close()
	within := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		if !strings.Contains(strings.Fields(lines.Text())[0], ":") {
			within = strings.HasSuffix(lines.Text(), " "+program)
		}
		var kB int
		if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &kB); err == nil && within {
			sum += kB
		}
	}
	return sum
}
