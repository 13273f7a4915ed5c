package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"skiff/apiserver"
	"skiff/store"
	"skiff/store/bolt"
	"skiff/store/etcd"

	"github.com/spf13/pflag"
)

// storage says where the cluster's state is, if not in the data directory. With an etcd several servers can serve one
// cluster. The names of the flags about etcd are kube-apiserver's.
type storage struct {
	endpoints    []string
	caFile       string
	certFile     string
	keyFile      string
	prefix       string
	compactEvery time.Duration
}

func (o *storage) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.endpoints, "storage-endpoint", nil, "URLs of an etcd cluster that keeps the state, for several servers of one cluster (default: a file in the data directory)")
	f.StringVar(&o.caFile, "etcd-cafile", "", "authority that signed the certificates of etcd (default: the system's)")
	f.StringVar(&o.certFile, "etcd-certfile", "", "certificate to show to etcd")
	f.StringVar(&o.keyFile, "etcd-keyfile", "", "key of that certificate")
	f.StringVar(&o.prefix, "etcd-prefix", "/skiff", "what the cluster's keys in etcd begin with")
	f.DurationVar(&o.compactEvery, "etcd-compaction-interval", 5*time.Minute, "how often old revisions are removed from etcd; 0: never")
}

// shared tells whether other servers may use the store too.
func (o *storage) shared() bool { return len(o.endpoints) > 0 }

func (s settings) openStore(ctx context.Context) (store.Store, error) {
	if !s.storage.shared() {
		db, err := bolt.Open(s.state())
		if errors.Is(err, bolt.ErrDamaged) {
			return nil, fmt.Errorf("%w: put back a snapshot with `skiff snapshot restore FILE`, or move the file away and begin with an empty cluster", err)
		}
		return db, err
	}
	return etcd.Open(ctx, etcd.Config{
		Endpoints: s.endpoints, Prefix: s.prefix, CompactEvery: s.compactEvery,
		CAFile: s.caFile, CertFile: s.certFile, KeyFile: s.keyFile,
	})
}

func (d dirs) pki() string { return filepath.Join(d.data, "pki") }

// The names under which a shared store notes what its servers must have in common.
const (
	authorityRecord = "authority" // The certificate of the authority.
	accountRecord   = "accounts"  // The public key that tokens of ServiceAccounts are checked with.
)

// joins holds that this server has the certificate authority of the cluster that the store is of, before it makes one of
// its own: what one server signs, all others must trust.
func (p *plane) joins(ctx context.Context) error {
	if !p.storage.shared() {
		return nil
	}
	noted, err := apiserver.Agree(ctx, p.store, authorityRecord, nil)
	if err != nil || noted == nil {
		return err
	}
	for _, file := range []string{"ca.crt", "ca.key", "sa.key"} {
		if _, err := os.Stat(filepath.Join(p.pki(), file)); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the cluster in this etcd has a certificate authority already (SHA-256 %s), and %s has no %s: copy ca.crt, ca.key and sa.key there from the directory pki of another server of that cluster", fingerprint(noted), p.pki(), file)
		}
	}
	return nil
}

// agree notes what this server has, in a new cluster, or holds that it is the same as the others have.
func (p *plane) agree(ctx context.Context) error {
	if !p.storage.shared() {
		return nil
	}
	account, err := x509.MarshalPKIXPublicKey(p.account.Public())
	if err != nil {
		return err
	}
	for _, common := range []struct {
		record, what, file string
		own                []byte
	}{
		{authorityRecord, "certificate authority", "ca.crt", p.ca.PEM()},
		{accountRecord, "key of service account tokens", "sa.key", account},
	} {
		noted, err := apiserver.Agree(ctx, p.store, common.record, common.own)
		if err != nil {
			return err
		}
		if !bytes.Equal(noted, common.own) {
			return fmt.Errorf("the %s in %s (SHA-256 %s) is not that of the cluster in this etcd (SHA-256 %s): copy ca.crt, ca.key and sa.key there from the directory pki of another server of that cluster, or choose another --etcd-prefix for a cluster of its own",
				common.what, filepath.Join(p.pki(), common.file), fingerprint(common.own), fingerprint(noted))
		}
	}
	return nil
}

// common is what all servers of a cluster must have the same, beside what they sign with: components are elected, and clients come
// to any of them. (Those on another port than the first are only not among the endpoints of the Service "kubernetes".)
func (s settings) common() []string {
	return []string{
		"--cluster-cidr=" + s.clusterRanges.String(),
		"--service-cidr=" + s.serviceRanges.String(),
		"--cluster-dns=" + strings.Join(texts(s.dns), ","),
		"--cluster-domain=" + s.clusterDomain,
		"--service-node-port-range=" + s.nodePorts,
	}
}

// fingerprint is the beginning of what `openssl x509 -fingerprint -sha256` says of a certificate.
func fingerprint(certificate []byte) string {
	if block, _ := pem.Decode(certificate); block != nil {
		certificate = block.Bytes
	}
	sum := sha256.Sum256(certificate)
	return fmt.Sprintf("%02X:%02X:%02X:%02X...", sum[0], sum[1], sum[2], sum[3])
}
