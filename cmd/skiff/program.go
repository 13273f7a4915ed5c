package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapProgram gives back the pages of the program's own file that this process has looked at so far. The start looks at most
// of the 60 MB, for each package sets itself up, a load like bench-api's at half of them, and a server at rest at 3 MB. The
// kernel keeps the pages in its cache, so what is needed again comes back without the disk, 64 KB at a time. It could have
// taken them anyhow, but while a process maps them it rather takes others, and counts them as that process's.
func unmapProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.Open("/proc/self/smaps") // https://docs.kernel.org/filesystems/proc.html
	if err != nil {
		return err
	}
	defer smaps.Close()
	parts, err := unchanged(smaps, program)
	if err != nil {
		return fmt.Errorf("read %s: %w", smaps.Name(), err)
	}
	for _, p := range parts {
		if _, _, err := unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED); err != 0 {
			return fmt.Errorf("give back the program's pages: %w", err)
		}
	}
	return nil
}

// part is some of the process's memory.
type part struct{ from, to uintptr }

// unchanged are the parts of memory that show the program's file as it is. They stay where they are for as long as the process
// lives. What can be written is none of them, nor is what has a page of its own, with relocations or a debugger's breakpoints:
// those would be lost.
func unchanged(smaps io.Reader, program string) (parts []part, err error) {
	var candidate *part
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case !strings.HasSuffix(fields[0], ":"): // The line that a part begins with.
			candidate = nil
			if strings.HasSuffix(lines.Text(), " "+program) && (fields[1] == "r-xp" || fields[1] == "r--p") {
				candidate = &part{}
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &candidate.from, &candidate.to); err != nil {
					return nil, err
				}
			}
		case fields[0] == "Anonymous:" && fields[1] == "0" && candidate != nil:
			parts = append(parts, *candidate)
		}
	}
	return parts, lines.Err()
}
