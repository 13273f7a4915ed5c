package pki

import (
	"fmt"
	"os"
	"path/filepath"
)

// writePair writes the key before the certificate, so that a certificate on disk always has its key.
func writePair(certFile, keyFile string, pair Pair) error {
	if err := writeFile(keyFile, pair.Key, 0o600); err != nil {
		return err
	}
	return writeFile(certFile, pair.Cert, 0o644)
}

func readPair(certFile, keyFile string) (Pair, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return Pair{}, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: cert, Key: key}, nil
}

// writeFile replaces the file path: whoever reads it, also after a power cut, finds all of the old or all of the new.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		temp.Close() // A second Close after the one below does nothing.
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	if err := temp.Chmod(mode); err != nil {
		return err
	}
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
