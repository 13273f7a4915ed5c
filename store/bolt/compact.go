package bolt

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	bbolt "go.etcd.io/bbolt"
)

// compactTx is how many bytes are copied in one transaction.
const compactTx = 1 << 20

// openCompacted opens the database. If its file has at least from bytes and most of them are free, it is first written
// anew beside the old one, which it then replaces; bbolt itself never gives a page back.
func openCompacted(path string, from int64) (*bbolt.DB, error) {
	db, err := openFile(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	free := int64(db.Stats().FreePageN) * int64(db.Info().PageSize)
	if info.Size() < from || free <= info.Size()/2 {
		return db, nil
	}
	if err := replace(db, path); err != nil {
		slog.Warn("compact store", "file", path, "err", err) // It works as it is; perhaps the disk is full.
		return db, nil
	}
	db.Close() // Not before the file is replaced: until then its lock keeps others out.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("compact store %s: %w", path, err)
	}
	return openFile(path)
}

// replace puts a compacted copy of db in the place of its file.
func replace(db *bbolt.DB, path string) error {
	temp := path + ".compact"
	if err := os.Remove(temp); err != nil && !os.IsNotExist(err) { // Left by one who was killed here.
		return err
	}
	err := copyTo(db, temp)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// copyTo writes what db holds to a new file and waits once, at the end, for the disk.
func copyTo(db *bbolt.DB, path string) error {
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer to.Close() // A second Close does nothing.
	if err := bbolt.Compact(to, db, compactTx); err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return err
	}
	return to.Close()
}
