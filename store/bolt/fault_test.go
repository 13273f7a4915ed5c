package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"skiff/store"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// ownMounts is set in a copy of this test program that has its mounts for itself.
const ownMounts = "SKIFF_TEST_MOUNTS"

// inOwnMounts runs the test that calls it once more, in a process whose mounts nobody else sees and that go with it, and
// tells whether this is that process.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(ownMounts) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: mounting needs root")
	}
	child := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), ownMounts+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := child.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("SKIPPED: this process may not have mounts of its own")
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// smallDisk mounts a file system in memory.
func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func resize(t *testing.T, dir, size string) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size="+size); err != nil {
		t.Fatal(err)
	}
}

// diskOn mounts an ext4 without a journal whose blocks are in a file of another file system, and returns the name of its
// device too. When the other is full, writes succeed and it is the wait for them that fails. onErrors is what it does when
// that happens to its own tables.
func diskOn(t *testing.T, below, onErrors string) (dir, device string) {
	t.Helper()
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("SKIPPED: there is no mkfs.ext4")
	}
	image, dir := filepath.Join(below, "image"), t.TempDir()
	for _, args := range [][]string{
		{"truncate", "--size=64M", image},
		{"mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0", "-N", "32", image},
		{"mount", "-o", "loop,errors=" + onErrors, image, dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %v: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) }) // With it the loop device goes.
	out, err := exec.Command("findmnt", "-no", "SOURCE", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Base(strings.TrimSpace(string(out)))
}

// A disk that is full refuses to write, or, if it is one that was promised more than there is, to wait. In either case
// writes are refused, the log says so once, nothing that was answered is lost, and the store goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	t.Run("writes fail", func(t *testing.T) {
		dir := smallDisk(t, "1m")
		testFullDisk(t, dir, func() { resize(t, dir, "64m") })
	})
	t.Run("waits fail", func(t *testing.T) {
		below := smallDisk(t, "1m")
		dir, _ := diskOn(t, below, "continue")
		testFullDisk(t, dir, func() { resize(t, below, "128m") })
	})
}

func testFullDisk(t *testing.T, dir string, mend func()) {
	log := captureLog(t)
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	w := &faultyWriter{keys: map[string]store.KV{}, open: map[string][]byte{}}
	watch := watchOn(t, s)

	var refused error
	for refused == nil && w.n < 5000 {
		refused = w.write(t, s)
	}
	if !errors.Is(refused, store.ErrRefused) && !errors.Is(refused, store.ErrUnavailable) || !errors.Is(refused, unix.ENOSPC) || strings.Contains(refused.Error(), "\n") {
		t.Fatalf("Put on a full disk: error %q, want one line with ErrRefused and ENOSPC", refused)
	}
	if s.db.NoSync {
		t.Error("the next write would not wait for its pages before its meta page: those of the one that was refused may be in their place")
	}
	w.check(t, s)
	for until := time.Now().Add(5 * retryAfter); time.Now().Before(until); { // It tries again meanwhile, and reads go on.
		_ = w.write(t, s)
	}
	w.check(t, s)
	mend()
	for deadline := time.Now().Add(patience); refused != nil; {
		if refused = w.write(t, s); time.Now().After(deadline) {
			t.Fatalf("the store does not go on when the disk is back: %v\n%s", refused, log)
		}
	}
	for range 100 {
		if err := w.write(t, s); err != nil {
			t.Fatalf("after the disk came back: %v", err)
		}
	}
	watch.check(t, w, w.check(t, s))
	for line, want := range map[string]int{"the disk does not take what is written": w.faults, "the disk is back": w.faults} {
		if n := strings.Count(log.String(), line); n != want {
			t.Errorf("the log says %d times %q, want %d:\n%s", n, line, want, log)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w.check(t, open(t, path))
}

// If only the wait for the meta page fails, readers see a write that was refused, and the kernel would not write the page
// again by itself. The store builds nothing on it before it is on the disk: what is there then is there after a power failure.
func TestLostMetaPage(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	below := smallDisk(t, "4m")
	dir, _ := diskOn(t, below, "continue")
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	w := &faultyWriter{keys: map[string]store.KV{}, open: map[string][]byte{}}
	for range 100 { // Then there are enough free pages for the next writes.
		if err := w.write(t, s); err != nil {
			t.Fatal(err)
		}
	}
	rev := put(t, s, "/last", "answered", 0)
	takeAway(t, path, filepath.Join(below, "image"), 0, 1)
	fillUp(t, filepath.Join(below, "filler"))

	if _, err := s.Put(t.Context(), "/last", []byte("refused"), rev); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("Put: error %v, want ErrUnavailable", err)
	}
	kv, err := s.Get(t.Context(), "/last")
	if err != nil || string(kv.Value) != "refused" {
		t.Fatalf("Get: %q, error %v: the write failed elsewhere than this test means it to", kv.Value, err)
	}
	for until := time.Now().Add(3 * retryAfter); time.Now().Before(until); {
		if _, err := s.Put(t.Context(), "/next", nil, 0); !errors.Is(err, store.ErrRefused) {
			t.Fatalf("Put: error %v, want ErrRefused", err)
		}
		if _, err := s.Get(t.Context(), "/last"); err != nil {
			t.Fatalf("reads do not go on: %v", err)
		}
	}
	resize(t, below, "64m")
	next := uint64(0)
	for deadline := time.Now().Add(patience); next == 0; {
		next, err = s.Put(t.Context(), "/next", nil, 0)
		if time.Now().After(deadline) {
			t.Fatalf("the store does not go on when the disk is back: %v", err)
		}
	}
	if kv, err := s.Get(t.Context(), "/last"); err != nil || string(kv.Value) != "refused" || next <= kv.Rev {
		t.Errorf("Get: %q at revision %d, error %v; the next write was at %d", kv.Value, kv.Rev, err, next)
	}
	for event, err := range s.Watch(t.Context(), "", rev) {
		if err != nil || string(event.Value) != "refused" || event.Rev != rev+1 {
			t.Errorf("a watch over the write that was refused and happened: %q at %d, error %v", event.Value, event.Rev, err)
		}
		break
	}
}

// If the disk took nothing of a write, not even its pages, and the server ends, the next one sees the write in the kernel's memory
// alone, and the kernel would not write it again. What it shows to anybody is there after a power failure.
func TestLostWrite(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	below := smallDisk(t, "4m")
	dir, _ := diskOn(t, below, "continue")
	path, image := filepath.Join(dir, "store.db"), filepath.Join(below, "image")
	s := open(t, path)
	w := &faultyWriter{keys: map[string]store.KV{}, open: map[string][]byte{}}
	for range 100 {
		if err := w.write(t, s); err != nil {
			t.Fatal(err)
		}
	}
	rev := put(t, s, "/last", "answered", 0)
	takeAway(t, path, image, append(freePages(t, path), 0, 1)...)
	fillUp(t, filepath.Join(below, "filler"))
	if _, err := s.Put(t.Context(), "/last", []byte("refused"), rev); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("Put: error %v, want ErrUnavailable", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	resize(t, below, "64m")
	s = open(t, path)
	seen := get(t, s, "/last")
	if string(seen.Value) != "refused" {
		t.Fatalf("/last is %q: the write failed elsewhere than this test means it to", seen.Value)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"umount", dir}, {"mount", "-o", "loop", image, dir}} { // The kernel's memory goes.
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	if got := get(t, open(t, path), "/last"); !same(got, seen) {
		t.Errorf("/last is %q at revision %d after the power failed, and was %q at %d", got.Value, got.Rev, seen.Value, seen.Rev)
	}
}

// freePages are those of a file that hold nothing.
func freePages(t *testing.T, path string) (free []int32) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	newest, _, err := readMetas(file)
	if err != nil {
		t.Fatal(err)
	}
	_, seen, err := readState(file, newest)
	if err != nil {
		t.Fatal(err)
	}
	for id := int32(2); int64(id) < fileSize(t, path)/pageSize; id++ {
		if !seen.has(uint64(id)) {
			free = append(free, id)
		}
	}
	return free
}

// takeAway frees the blocks of the image that hold pages of the file.
func takeAway(t *testing.T, path, image string, pages ...int32) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	below, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	for _, page := range pages {
		block := page
		const fibmap = 1 // From the number of a file's block to that of the disk's: linux/fs.h.
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), fibmap, uintptr(unsafe.Pointer(&block))); errno != 0 {
			t.Skipf("SKIPPED: FIBMAP: %v", errno)
		}
		if block == 0 {
			continue // It has none yet, and will find none.
		}
		if err := unix.Fallocate(int(below.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(block)*pageSize, pageSize); err != nil {
			t.Fatal(err)
		}
	}
}

// fillUp writes to a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, pageSize))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// A disk that becomes read-only refuses writes, and what was answered is there when it is mounted again.
func TestReadOnlyDisk(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	below := smallDisk(t, "128m")
	dir, device := diskOn(t, below, "remount-ro")
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	w := &faultyWriter{keys: map[string]store.KV{}, open: map[string][]byte{}}
	for range 50 {
		if err := w.write(t, s); err != nil {
			t.Fatal(err)
		}
	}
	// This is what ext4 does when it finds that it is damaged.
	if err := os.WriteFile("/sys/fs/ext4/"+device+"/trigger_fs_error", []byte("1"), 0o200); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if err := w.write(t, s); !errors.Is(err, store.ErrRefused) {
		t.Errorf("Put on a read-only disk: error %v, want ErrRefused", err)
	}
	w.check(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path) // It can be read all the same.
	w.check(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", filepath.Join(below, "image"), dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	s = open(t, path)
	w.check(t, s)
	if err := w.write(t, s); err != nil {
		t.Errorf("Put on the disk mounted again: %v", err)
	}
}

// A store whose disk is read-only from the beginning says so once, is read, refuses writes, and goes on when the disk takes them.
func TestReadOnlyStart(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	log := captureLog(t)
	dir := smallDisk(t, "16m")
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	w := &faultyWriter{keys: map[string]store.KV{}, open: map[string][]byte{}}
	for range 50 {
		if err := w.write(t, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if _, err := Open(filepath.Join(dir, "new.db")); !errors.Is(err, unix.EROFS) || strings.Contains(err.Error(), "\n") {
		t.Errorf("a new store on a read-only disk: error %v, want one line with EROFS", err)
	}
	s = open(t, path)
	watch := watchOn(t, s)
	w.check(t, s)
	if err := w.write(t, s); !errors.Is(err, store.ErrRefused) || !errors.Is(err, unix.EROFS) {
		t.Errorf("Put on a read-only disk: error %v, want ErrRefused and EROFS", err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "is in use by another skiff server") {
		t.Errorf("a second Open: error %v, want it to be in use", err)
	}
	remount(0)
	for deadline, err := time.Now().Add(patience), store.ErrRefused; err != nil; {
		if err = w.write(t, s); err != nil && (!errors.Is(err, store.ErrRefused) || time.Now().After(deadline)) {
			t.Fatalf("the store does not go on when the disk takes writes: %v", err)
		}
	}
	watch.check(t, w, w.check(t, s))
	for _, line := range []string{"the disk does not take what is written", "the disk is back"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("the log says %d times %q, want once:\n%s", n, line, log)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w.check(t, open(t, path))
}

// faultyWriter writes one after the other, and knows what it was told.
type faultyWriter struct {
	n      int
	keys   map[string]store.KV // What is there, as answered.
	open   map[string][]byte   // Of writes of which it is open whether they happened: what may be there; nil is nothing.
	rev    uint64
	faults int // How often a write was refused after one that was not.
	failed bool
}

func (w *faultyWriter) write(t *testing.T, s *Store) error {
	t.Helper()
	w.n++
	key := fmt.Sprint("/", w.n*7919%400)
	have, exists := w.keys[key]
	if _, open := w.open[key]; open {
		key, have, exists = fmt.Sprint("/new/", w.n), store.KV{}, false
	}
	var value []byte
	var rev uint64
	var err error
	if exists && w.n%3 == 0 {
		rev, err = s.Delete(t.Context(), key, have.Rev)
	} else {
		value = fmt.Appendf(nil, "%d %s", w.n, bytes.Repeat([]byte("x"), w.n*131%9000))
		rev, err = s.Put(t.Context(), key, value, have.Rev)
	}
	if err != nil {
		if !w.failed {
			w.faults++
		}
		if w.failed = true; !errors.Is(err, store.ErrRefused) {
			w.open[key] = value
		}
		return err
	}
	if rev <= w.rev {
		t.Fatalf("a write got revision %d after %d", rev, w.rev)
	}
	w.failed, w.rev, w.keys[key] = false, rev, store.KV{Key: key, Value: value, Rev: rev}
	if value == nil {
		delete(w.keys, key)
	}
	return nil
}

// check holds what is in the store against what was answered, and returns the revision.
func (w *faultyWriter) check(t *testing.T, s *Store) uint64 {
	t.Helper()
	kvs, rev, err := s.List(t.Context(), "")
	if err != nil || rev < w.rev {
		t.Fatalf("List: revision %d after %d, error %v", rev, w.rev, err)
	}
	have := map[string]store.KV{}
	for _, kv := range kvs {
		have[kv.Key] = kv
	}
	for key, value := range w.open {
		got, ok := have[key]
		if !same(got, w.keys[key]) && (!ok && value == nil || ok && bytes.Equal(got.Value, value)) {
			delete(w.open, key) // It did happen.
			if w.keys[key] = got; !ok {
				delete(w.keys, key)
			}
		}
	}
	if !maps.EqualFunc(have, w.keys, same) {
		t.Fatalf("the store has %d keys that are not the %d that were answered", len(have), len(w.keys))
	}
	return rev
}

// watched is what a watcher has seen.
type watched struct {
	from   uint64
	mu     sync.Mutex
	events []store.Event
	err    error
}

func watchOn(t *testing.T, s *Store) *watched {
	_, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{from: rev}
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		for event, err := range s.Watch(ctx, "", rev) {
			w.mu.Lock()
			w.events, w.err = append(w.events, event), err
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
	return w
}

// check waits until the watcher has seen revision rev, and holds that it saw all up to there. It may have been told to
// list again, if a write happened whose answer was that it may not have.
func (w *watched) check(t *testing.T, writer *faultyWriter, rev uint64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		events, err := slices.Clone(w.events), w.err
		w.mu.Unlock()
		if err != nil {
			if !errors.Is(err, store.ErrCompacted) {
				t.Fatalf("the watch ended with %v", err)
			}
			events = events[:len(events)-1]
		}
		if err == nil && (len(events) == 0 || events[len(events)-1].Rev < rev) {
			if time.Now().After(deadline) {
				t.Fatalf("the watcher has not seen revision %d", rev)
			}
			continue
		}
		for i, event := range events {
			if want := w.from + uint64(i) + 1; event.Rev != want {
				t.Fatalf("event %d is at revision %d, want %d", i, event.Rev, want)
			}
			if kv := writer.keys[event.Key]; kv.Rev == event.Rev && !same(kv, event.KV) {
				t.Fatalf("revision %d is %q, want %q", event.Rev, event.Value, kv.Value)
			}
		}
		return
	}
}

// syncBuffer is a log that is written and read at the same time.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// captureLog takes the log of this process.
func captureLog(t *testing.T) *syncBuffer {
	b, before := &syncBuffer{}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(b, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return b
}
