package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// kubectl has said itself what went wrong; what any other program ended with is said by us.
func TestExitStatus(t *testing.T) {
	ended := exec.Command("sh", "-c", "exit 3").Run()
	tests := []struct {
		err    error
		status int
		text   string
	}{
		{nil, 0, ""},
		{ended, 3, ""},
		{fmt.Errorf("containerd ended at once: %w", ended), 1, "skiff: containerd ended at once: exit status 3\n"},
	}
	for _, tc := range tests {
		var stderr strings.Builder
		if status := exitStatus(tc.err, &stderr); status != tc.status || stderr.String() != tc.text {
			t.Errorf("%v: exits with %d and says %q, want %d and %q", tc.err, status, stderr.String(), tc.status, tc.text)
		}
	}
}
