package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	bbolt "go.etcd.io/bbolt"
)

// refused runs a command that must end with status 1 and one line that matches.
func refused(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	line := strings.Join(cmd.Args, " ")
	if _, after, ok := strings.Cut(line, " -- "); ok {
		line = after
	}
	r := execute(t, line, cmd)
	if r.status != 1 || !matches("skiff: "+want+"\n", r.stderr) {
		t.Errorf("%v\nwant one line: skiff: %s\n(exit status 1)", r, want)
	}
}

// TestBadInput gives the binary what it cannot work with. Each answer is one line that says what to do.
func TestBadInput(t *testing.T) {
	n := newNode(t)
	refused(t, n.skiff("server", "--prot=6443"), "unknown flag: --prot; `skiff server --help` lists the flags")
	refused(t, n.skiff("server", "--port=none"), `invalid argument "none" for "--port" flag: .*`)
	refused(t, n.skiff("server", "--service-cidr=10.42.1.0/24", "--cluster-dns=10.42.1.10"), `--cluster-cidr 10\.42\.0\.0/16 and --service-cidr 10\.42\.1\.0/24 overlap`)
	refused(t, n.skiff("servre"), `unknown command "servre" for "skiff"(?s:.*)`)

	withoutPath := n.skiff("server", "--node-name="+nodeName)
	withoutPath.Env = []string{"PATH=" + n.dir}
	withoutPath.Path, withoutPath.Err = lookPath(t, "nsenter"), nil
	refused(t, withoutPath, `no containerd on PATH: install containerd 1\.6 or newer and runc.*`)

	port := listenIn(t, n.netns, "0.0.0.0:6443")
	refused(t, n.skiff("server", "--node-name="+nodeName), "port 6443 is in use: stop what listens there, or choose another with --port")
	port.Close()

	n.start()
	refused(t, n.skiff("server", "--node-name="+nodeName, "--port=6444"), ".*"+regexp.QuoteMeta(n.data)+".*(another|already|in use).*")
	n.stop(syscall.SIGTERM)

	state, saved := filepath.Join(n.data, "state.db"), filepath.Join(n.dir, "saved.db")
	host(t, "cp "+state+" "+saved)
	ageTo(t, state, "0")
	refused(t, n.skiff("server", "--node-name="+nodeName), ".*state.db.*(format|version).*")
	host(t, "mv "+saved+" "+state)
	n.start()
}

// TestNotRoot starts a server as nobody.
func TestNotRoot(t *testing.T) {
	n := newNode(t)
	if err := os.Chmod(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(n.dir, "skiff") // The repository may be root's alone.
	host(t, "cp "+repository("bin/skiff")+" "+binary)
	home := filepath.Join(n.dir, "home")
	if err := os.Mkdir(home, 0o777); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	for command, want := range map[string]string{
		"server": "a node needs root: run it with sudo, or with --no-agent for the control plane alone",
		"up":     "a node needs root: run it with sudo, or with --no-agent for the control plane alone",
		"down":   "stopping containers needs root: run it with sudo",
	} {
		cmd := exec.Command(binary, command, "--data-dir", filepath.Join(home, "data"), "--run-dir", filepath.Join(home, "run"))
		cmd.Dir = home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		refused(t, cmd, want)
	}
}

func lookPath(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ageTo makes a store's file one of another version.
func ageTo(t *testing.T, file, format string) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte(format))
	}); err != nil {
		t.Fatal(err)
	}
}
