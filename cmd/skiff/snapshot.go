package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"skiff/apiserver"
	"skiff/store"
	"skiff/store/bolt"
	"skiff/store/snapshot"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const snapshotHelp = `Keep the state of the cluster in one file, and make a cluster of it again.

In the file are all objects of the API: workloads, Services, ConfigMaps, Secrets (as they are: keep the file safe),
custom resources, Events. Not in it are the certificates and keys in DATA/pki, images, logs, and the contents of volumes.
A cluster restored with another DATA/pki makes itself a new authority: kubeconfig files and tokens of the old one do not
work there.`

func snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Save the state of the cluster to a file, and restore it", Long: snapshotHelp}
	cmd.AddCommand(snapshotSaveCommand(), snapshotRestoreCommand())
	return cmd
}

func snapshotSaveCommand() *cobra.Command {
	var d dirs
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save the state of the cluster, which may be running, to a file",
		Long: snapshotHelp + `

A running cluster is asked over its API and goes on meanwhile; the file is its state at one moment. Of one that is stopped
the data directory is read. A file that is there already is replaced when the new one is whole.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.absolute(); err != nil {
				return err
			}
			if kubeconfig == "" {
				kubeconfig = d.kubeconfig()
			}
			return d.save(cmd.Context(), cmd.OutOrStdout(), kubeconfig, args[0])
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file of an administrator of the running cluster (default DATA/admin.kubeconfig)")
	return cmd
}

func (d dirs) save(ctx context.Context, out io.Writer, kubeconfig, file string) error {
	write := d.writeStored
	if _, ok := d.running(); ok || d.inUse() != nil {
		write = func(ctx context.Context, to io.Writer) error { return fetchSnapshot(ctx, kubeconfig, to) }
	}
	temp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	defer os.Remove(temp.Name()) // Unless it was renamed.
	defer temp.Close()
	if err := write(ctx, temp); err != nil {
		return err
	}
	s, err := checkSnapshot(temp)
	if err == nil {
		err = temp.Sync()
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	fmt.Fprintf(out, "saved %d entries at revision %d to %s\n", s.Count, s.Rev, file)
	return nil
}

// checkSnapshot reads a snapshot to its end: only then it is whole.
func checkSnapshot(file io.ReadSeeker) (*snapshot.Reader, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s, err := snapshot.NewReader(file)
	if err != nil {
		return nil, err
	}
	for _, err := range s.Entries() {
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// fetchSnapshot asks a running cluster.
func fetchSnapshot(ctx context.Context, kubeconfig string, to io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("use %s: %w", kubeconfig, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+apiserver.SnapshotPath, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running cluster: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("ask the running cluster: %s: %s", resp.Status, bytes.TrimSpace(body))
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("read from the running cluster: %w", err)
	}
	return nil
}

// writeStored writes what is in the data directory of a cluster that is stopped.
func (d dirs) writeStored(ctx context.Context, to io.Writer) error {
	if _, err := os.Stat(d.state()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no state in %s; of a cluster that keeps it in etcd a snapshot can be taken while it runs", d.data)
	}
	s, err := bolt.Open(d.state())
	if err != nil {
		return err
	}
	defer s.Close()
	kvs, rev, err := s.List(ctx, "")
	if err != nil {
		return err
	}
	_, err = snapshot.Write(to, rev, allOf(kvs))
	return err
}

func allOf(kvs []store.KV) iter.Seq2[store.KV, error] {
	return func(yield func(store.KV, error) bool) {
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
	}
}

func snapshotRestoreCommand() *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put the state in a file in the place of that of the cluster, which must be stopped",
		Long: snapshotHelp + `

The server must be stopped; containers may run on, and the server finds those again that the restored state has. The state
as it was is kept beside the new one, and its name is printed. If the file is damaged, nothing changes. All clients list
anew: the revision is higher than any that was ever given. A cluster that keeps its state in etcd cannot be restored this
way (etcdutl snapshot restore does that), but a snapshot of one can be restored into a data directory.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.absolute(); err != nil {
				return err
			}
			return d.restore(cmd.OutOrStdout(), args[0], time.Now())
		},
	}
	d.flags(cmd)
	return cmd
}

func (d dirs) restore(out io.Writer, name string, now time.Time) error {
	if pid, ok := d.running(); ok {
		return fmt.Errorf("the server (process %d) runs: stop it first, with `kill %d`, which leaves the containers running, or with `skiff down`", pid, pid)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	s, err := snapshot.NewReader(file)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := os.MkdirAll(d.data, 0o700); err != nil {
		return fmt.Errorf("make the directory %s: %w", d.data, err)
	}
	kept := d.state() + "." + now.UTC().Format("20060102T150405.000Z")
	rev, err := bolt.Restore(d.state(), kept, s.Rev, s.Entries())
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	fmt.Fprintf(out, "restored %d entries of revision %d, now at revision %d\n", s.Count, s.Rev, rev)
	if _, err := os.Stat(kept); err == nil {
		fmt.Fprintf(out, "the state as it was is kept in %s; remove it when you do not need it\n", kept)
	}
	return nil
}
