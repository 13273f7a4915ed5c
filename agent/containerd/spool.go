package containerd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// spool holds what was taken out of a FIFO until it is in the log, so that it is lost with no process that dies. Taking is one
// system call (splice): whenever the process is killed, a byte is either still in the FIFO or already in this file. What is
// in the log is given back to the file system as a hole, so the file occupies a page or two.
type spool struct {
	file   *os.File
	taken  int64 // Bytes since the container's start: the file's size.
	logged int64 // Of these, what is in the log.
	freed  int64
}

const pageSize = 4096

func openSpool(path string) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spool{file: f, taken: info.Size()}, nil
}

// take moves what is in the FIFO, at most max bytes, behind what it has. None is the end of the FIFO.
func (s *spool) take(fifo int, max int) (n int64, err error) {
	offset := s.taken
	n, err = unix.Splice(fifo, nil, int(s.file.Fd()), &offset, max, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if err != nil {
		return 0, err
	}
	s.taken += n
	return n, nil
}

// pending reads what is not in the log yet into buffer. What does not fit is left for the next time.
func (s *spool) pending(buffer []byte) ([]byte, error) {
	buffer = buffer[:min(int64(len(buffer)), s.taken-s.logged)]
	n, err := s.file.ReadAt(buffer, s.logged)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buffer[:n], err
}

// free gives the pages back that are in the log.
func (s *spool) free() {
	if s.logged-s.freed < pageSize {
		return
	}
	// Where the file system cannot do it, the file grows.
	_ = unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.freed, s.logged-s.freed)
	s.freed = s.logged - s.logged%pageSize
}

// journal notes which bytes of the spools are in a log of which size. A process that is killed between writing the log and
// noting that leaves a log longer than the note says; the next one cuts it back and writes the same again. So every byte
// is in the log once.
type journal struct{ file *os.File }

// note is what a journal holds: after a rotation the size is the new file's.
type note struct {
	LogSize int64
	Logged  [2]int64 // Of stdout and of stderr.
}

func openJournal(path string) (journal, *note, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return journal{}, nil, err
	}
	n := &note{}
	err = binary.Read(f, binary.NativeEndian, n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return journal{f}, nil, nil
	}
	if err != nil {
		f.Close()
		return journal{}, nil, err
	}
	return journal{f}, n, nil
}

// write replaces the note, in one system call.
func (j journal) write(n note) error {
	var b [24]byte
	for i, v := range []int64{n.LogSize, n.Logged[0], n.Logged[1]} {
		binary.NativeEndian.PutUint64(b[8*i:], uint64(v))
	}
	_, err := j.file.WriteAt(b[:], 0)
	return err
}

// cutBack shortens the log at path to what the journal knows of. A log that is shorter was rotated after the note was made.
func cutBack(path string, n *note) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || n == nil {
		return nil
	}
	if err == nil && info.Size() > n.LogSize {
		err = os.Truncate(path, n.LogSize)
	}
	if err != nil {
		return fmt.Errorf("cut back log %s: %w", path, err)
	}
	return nil
}

// The files of a container's directory that belong to its output, beside the FIFOs.
func spoolFile(dir, stream string) string { return filepath.Join(dir, stream+".spool") }
func journalFile(dir string) string       { return filepath.Join(dir, "journal") }
