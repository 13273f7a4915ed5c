package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"skiff/store"
)

// The environment of a child: a copy of this test program that writes to a store until it is killed.
const (
	childPath    = "SKIFF_TEST_STORE"   // The store's file.
	childDone    = "SKIFF_TEST_DONE"    // How many writes each writer has done before.
	childCompact = "SKIFF_TEST_COMPACT" // From how many bytes on the file is compacted.
)

// killsVariable sets how often TestKill kills; for a long run.
const killsVariable = "SKIFF_TEST_KILLS"

const (
	killWriters  = 8
	killWatchers = 2
)

// Kill -9 at any moment loses no write that was answered, gives no revision twice, and leaves no watcher with a gap. It
// hits a server that opens its file, writes, or compacts.
func TestKill(t *testing.T) {
	kills := 200
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const servers = 4
	for i := range servers {
		t.Run(fmt.Sprint("server ", i), func(t *testing.T) {
			t.Parallel()
			h := &killed{path: filepath.Join(t.TempDir(), "store.db"), compactFrom: 32 << 20, byRev: map[uint64]string{}}
			if i == 0 {
				h.compactFrom = 1
			}
			for w := range h.writers {
				h.writers[w].keys = map[string]string{}
			}
			for range kills / servers {
				h.round(t)
			}
			t.Logf("%d writes at %d kills, %d revisions", len(h.byRev), kills/servers, h.rev)
		})
	}
}

// killed is what is known of a store that is killed again and again.
type killed struct {
	path        string
	compactFrom int64
	writers     [killWriters]killedWriter
	rev         uint64            // At the last look.
	byRev       map[uint64]string // What each revision was that anybody was told of.
}

// killedWriter is what one writer has done. It has keys of its own and writes one after the other.
type killedWriter struct {
	done int
	keys map[string]string
}

// write is the nth write of a writer: which key, and which value; "" deletes it.
func (w killedWriter) write(writer, n int) (key, value string) {
	key = fmt.Sprintf("/%d/%d", writer, n%5)
	if n%7 == 6 && w.keys[key] != "" {
		return key, ""
	}
	return key, fmt.Sprintf("%d %s", n, strings.Repeat("x", n*37%3000))
}

// after is the writer after its next write.
func (w killedWriter) after(writer int) killedWriter {
	key, value := w.write(writer, w.done)
	next := killedWriter{w.done + 1, maps.Clone(w.keys)}
	if next.keys[key] = value; value == "" {
		delete(next.keys, key)
	}
	return next
}

// round has a child write, kills it, and holds what the file has against what the child said.
func (k *killed) round(t *testing.T) {
	t.Helper()
	var done []string
	for _, w := range k.writers {
		done = append(done, strconv.Itoa(w.done))
	}
	ctx, cancel := context.WithCancel(t.Context()) // Also kills the child.
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childPath+"="+k.path, childDone+"="+strings.Join(done, " "), childCompact+"="+strconv.FormatInt(k.compactFrom, 10))
	out, err := child.StdoutPipe()
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	defer func() { cancel(); _ = child.Wait() }()
	opened := make(chan struct{})
	go func() {
		if rand.IntN(10) > 0 { // Else it may be killed while it opens the file.
			select {
			case <-opened:
			case <-ctx.Done():
			}
		}
		time.Sleep(time.Duration(5+rand.IntN(45)) * time.Millisecond)
		cancel()
	}()
	k.listen(t, out, opened)
	k.look(t)
}

// listen reads what the child says until its end.
func (k *killed) listen(t *testing.T, out io.Reader, opened chan struct{}) {
	t.Helper()
	var seen [killWatchers]uint64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		var who int
		var rev uint64
		var what string
		switch word {
		case "open":
			if _, err := fmt.Sscan(rest, &rev); err != nil || rev < k.rev {
				t.Fatalf("the child says %q: the store was at revision %d", lines.Text(), k.rev)
			}
			for i := range seen {
				seen[i] = rev
			}
			close(opened)
			continue
		case "wrote", "saw":
			if _, err := fmt.Sscan(rest, &who, &rev, &what); err == nil {
				break
			}
			fallthrough
		default:
			t.Fatalf("the child says %q", lines.Text())
		}
		if told, ok := k.byRev[rev]; ok && told != what || rev <= k.rev {
			t.Fatalf("revision %d is %s and %q; the store began at %d", rev, what, told, k.rev)
		}
		k.byRev[rev] = what
		if word == "saw" {
			if rev != seen[who]+1 {
				t.Fatalf("watcher %d saw revision %d after %d", who, rev, seen[who])
			}
			seen[who] = rev
			continue
		}
		w := &k.writers[who]
		if key, value := w.write(who, w.done); what != writeName(key, value) {
			t.Fatalf("writer %d says %q as its write %d", who, lines.Text(), w.done)
		}
		*w = w.after(who)
	}
}

// look opens the store: each writer's keys must be as after its last answer, or as after the write that was under way.
func (k *killed) look(t *testing.T) {
	t.Helper()
	s, err := Open(k.path)
	if err != nil {
		t.Fatalf("after the kill: %v", err)
	}
	defer s.Close()
	for who := range k.writers {
		w := &k.writers[who]
		kvs, rev, err := s.List(t.Context(), fmt.Sprintf("/%d/", who))
		if err != nil {
			t.Fatal(err)
		}
		k.rev = rev
		have := map[string]string{}
		for _, kv := range kvs {
			have[kv.Key] = string(kv.Value)
			if told, ok := k.byRev[kv.Rev]; ok && told != writeName(kv.Key, string(kv.Value)) {
				t.Fatalf("%s is at revision %d, which was %s", kv.Key, kv.Rev, told)
			}
		}
		if maps.Equal(have, w.keys) {
			continue
		}
		if *w = w.after(who); !maps.Equal(have, w.keys) {
			t.Fatalf("writer %d had the answer to %d writes, but the store is neither as after them nor as after one more", who, w.done-1)
		}
	}
	for rev := range k.byRev {
		if rev > k.rev {
			t.Fatalf("somebody was told of revision %d, but the store is at %d", rev, k.rev)
		}
	}
}

// writeName is a write without most of its value.
func writeName(key, value string) string {
	n, _, _ := strings.Cut(value, " ")
	return key + "=" + n
}

// TestChild writes and watches until it is killed, and says what it is told.
func TestChild(t *testing.T) {
	path := os.Getenv(childPath)
	if path == "" {
		t.Skip("runs only as the child of TestKill")
	}
	compactFrom, err := strconv.ParseInt(os.Getenv(childCompact), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, func(o *options) { o.compactFrom = compactFrom })
	if err != nil {
		t.Fatal(err)
	}
	_, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("open", rev)
	for i := range killWatchers {
		go func() {
			for event, err := range s.Watch(t.Context(), "", rev) {
				if err != nil {
					fmt.Println("watch:", err)
					return
				}
				fmt.Println("saw", i, event.Rev, writeName(event.Key, string(event.Value)))
			}
		}()
	}
	for i, text := range strings.Fields(os.Getenv(childDone)) {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		go func() { fmt.Println("writer:", writeOn(t, s, i, n)) }()
	}
	select {} // Until killed.
}

// writeOn does a writer's writes from the nth on.
func writeOn(t *testing.T, s *Store, writer, n int) error {
	for ; ; n++ {
		w := killedWriter{keys: map[string]string{}}
		key, _ := w.write(writer, n)
		kv, err := s.Get(t.Context(), key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		w.keys[key] = string(kv.Value)
		_, value := w.write(writer, n)
		var rev uint64
		if value == "" {
			rev, err = s.Delete(t.Context(), key, kv.Rev)
		} else {
			rev, err = s.Put(t.Context(), key, []byte(value), kv.Rev)
		}
		if err != nil {
			return err
		}
		fmt.Println("wrote", writer, rev, writeName(key, value))
	}
}
