package test

import (
	"os"
	"testing"
)

// TestBinary promises that skiff stays small. What makes it jump by 20 MB is package text/template, or another use of
// reflection by which any method of any type might be called: then the linker leaves none of them out.
func TestBinary(t *testing.T) {
	requireRoot(t)
	const most = 72 << 20
	info, err := os.Stat(repository("bin/skiff"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > most {
		t.Errorf("bin/skiff has %d bytes, want at most %d", info.Size(), most)
	}
}
