// Box is the only program in the tests' image. Its first argument says what to do.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "box: what?")
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "hold": // Until SIGTERM or SIGINT.
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("holding")
		fmt.Println("stopped by", <-stop)
	case "echo": // OUT ERR STATUS
		fmt.Println(args[0])
		fmt.Fprintln(os.Stderr, args[1])
		os.Exit(number(args[2]))
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			os.Exit(1)
		}
		fmt.Println("end of input")
	case "lines": // N
		out := bufio.NewWriter(os.Stdout)
		for i := range number(args[0]) {
			fmt.Fprintln(out, "line", i)
		}
		out.Flush()
	case "numbers": // To N.
		out := bufio.NewWriter(os.Stdout)
		for i := range number(args[0]) {
			fmt.Fprintln(out, i)
		}
		out.Flush()
	case "bursts": // N, of a hundred lines.
		out := bufio.NewWriter(os.Stdout)
		for i := range number(args[0]) * 100 {
			fmt.Fprintln(out, "line", i)
			if i%100 == 99 {
				out.Flush()
				time.Sleep(time.Millisecond)
			}
		}
	case "tick": // Counts until it is killed.
		for i := 0; ; i++ {
			fmt.Println("tick", i)
			time.Sleep(time.Millisecond)
		}
	case "eat": // Memory, until there is none.
		var eaten [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			eaten = append(eaten, b)
		}
	case "size": // Of the terminal, whenever it changes.
		changed := make(chan os.Signal, 1)
		signal.Notify(changed, syscall.SIGWINCH)
		for {
			if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
				fmt.Printf("size %dx%d\n", size.Col, size.Row)
			} else {
				fmt.Println("no terminal:", err)
			}
			<-changed
		}
	case "show": // FILE...
		host, _ := os.Hostname()
		dir, _ := os.Getwd()
		groups, _ := os.Getgroups()
		fmt.Println("host", host, "dir", dir, "uid", os.Getuid(), "gid", os.Getgid(), "groups", groups)
		fmt.Println("env", strings.Join(os.Environ(), " "))
		for _, file := range args {
			text, err := os.ReadFile(file)
			fmt.Printf("%s: %s %v\n", file, text, err)
		}
	case "orphan": // Leaves a child to process 1, which ends a moment later.
		if err := exec.Command("/box", "nap").Start(); err != nil {
			panic(err)
		}
	case "run": // What its arguments say, as a child.
		child := exec.Command("/box", args...)
		child.Stdout = os.Stdout
		if err := child.Run(); err != nil {
			os.Exit(1)
		}
	case "nap":
		time.Sleep(20 * time.Millisecond)
	case "processes": // NUMBER STATE COMMAND
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			dir := filepath.Dir(file)
			command, _ := os.ReadFile(file)
			stat, _ := os.ReadFile(dir + "/stat")
			_, rest, _ := strings.Cut(string(stat), ") ")
			fmt.Printf("%s %.1s %s\n", filepath.Base(dir), rest, strings.ReplaceAll(string(command), "\x00", " "))
		}
	case "write": // FILE TEXT
		if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
