package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// format is the version of how keys are laid out. A program that finds another one does not touch them.
const format = "1"

// retries are those of a read, over a quarter of the time that it may take: then the reason why is still known. A write
// is never repeated.
const retries = 25

// Config says where the store is. Endpoints are required, and what they need.
type Config struct {
	// Endpoints are the URLs of the cluster's members, all http:// or all https://. A user and password for etcd's own
	// authentication stand in the first.
	Endpoints []string
	// Prefix is what all keys begin with, "/skiff" if empty.
	Prefix string
	// CAFile is the authority that members' certificates are checked with; the system's if empty.
	CAFile string
	// CertFile and KeyFile are the certificate that etcd is shown; none if empty.
	CertFile, KeyFile string
	// CompactEvery is how often old revisions are removed from etcd; never if 0.
	CompactEvery time.Duration
}

// Open connects to the store, and makes it if the prefix is empty.
func Open(ctx context.Context, c Config) (*Store, error) {
	config, err := c.client()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", c.where(), explain(err))
	}
	prefix := "/" + strings.Trim(c.Prefix, "/")
	if c.Prefix == "" {
		prefix = "/skiff"
	}
	s := &Store{client: client, head: prefix + "/head", data: prefix + "/data/"}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.prepare(ctx, prefix+"/"); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open the store in etcd at %s: %w", c.where(), err)
	}
	if c.CompactEvery > 0 {
		compactor := &compactor{Store: s, key: prefix + "/compact"}
		s.background.Go(func() { compactor.run(c.CompactEvery) })
	}
	return s, nil
}

// prepare lays out a new store, or checks that what is there is ours.
func (s *Store) prepare(ctx context.Context, prefix string) error {
	var found *clientv3.TxnResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		found, err = s.client.Txn(ctx).Then(clientv3.OpGet(s.head), clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if head := found.Responses[0].GetResponseRange().Kvs; len(head) > 0 {
		if have := string(head[0].Value); have != format {
			return fmt.Errorf("the keys under %s have format %s, but this skiff reads format %s: use the skiff that wrote them", prefix, have, format)
		}
		s.first = head[0].CreateRevision
		return nil
	}
	if found.Responses[1].GetResponseRange().Count > 0 {
		return fmt.Errorf("there are keys under %s that are not skiff's: choose another --etcd-prefix", prefix)
	}
	err = s.call(ctx, func(ctx context.Context) (err error) {
		found, err = s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(s.head), "=", 0)).
			Then(clientv3.OpPut(s.head, format)).
			Commit()
		return err
	})
	if err != nil {
		return err
	}
	if !found.Succeeded { // Another server was faster.
		return s.prepare(ctx, prefix)
	}
	s.first = found.Header.Revision
	return nil
}

// client is how to connect: at once, again and again, and noticing a peer that has silently gone.
func (c Config) client() (clientv3.Config, error) {
	config := clientv3.Config{
		DialTimeout:          callTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   16 << 20, // What is too large is for etcd to say.
		MaxUnaryRetries:      retries,
		BackoffWaitBetween:   callTimeout / 4 / retries,
		Logger:               zap.NewNop(), // Every error comes to us, and we say it once.
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
			grpc.WithChainUnaryInterceptor(failFast),
		},
	}
	scheme := ""
	for _, text := range c.Endpoints {
		u, err := parseEndpoint(text)
		if err != nil {
			return config, err
		}
		if scheme != "" && scheme != u.Scheme {
			return config, errors.New("--storage-endpoint: the URLs are all http:// or all https://")
		}
		scheme = u.Scheme
		if u.User != nil {
			config.Username = u.User.Username()
			config.Password, _ = u.User.Password()
			u.User = nil
		}
		config.Endpoints = append(config.Endpoints, u.String())
	}
	if scheme == "" {
		return config, errors.New("--storage-endpoint: it needs the URL of an etcd member, like http://10.0.0.5:2379")
	}
	tlsConfig, err := c.tls(scheme)
	config.TLS = tlsConfig
	return config, err
}

// failFast has a request fail with the reason when no member can be reached. The client would have it wait for one, and
// then only say that the time is over.
func failFast(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, in, out, conn, append(slices.Clip(opts), grpc.WaitForReady(false))...)
}

func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("--storage-endpoint %s: it must be the URL of an etcd member with its port, like http://10.0.0.5:2379", redact(text))
	}
	u.Path = ""
	return u, nil
}

// redact hides a password in what may be a URL.
func redact(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "..." + text[at:]
	}
	return text
}

// where names the endpoints, without a password.
func (c Config) where() string {
	var all []string
	for _, e := range c.Endpoints {
		all = append(all, redact(e))
	}
	return strings.Join(all, ",")
}

func (c Config) tls(scheme string) (*tls.Config, error) {
	if scheme == "http" {
		if c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" {
			return nil, errors.New("--etcd-cafile, --etcd-certfile and --etcd-keyfile are for https:// endpoints, and --storage-endpoint is http://")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-cafile %s: there is no certificate in it", c.CAFile)
		}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-certfile and --etcd-keyfile: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
