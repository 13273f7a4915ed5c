package pki

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// clusterName names the cluster, the user and the context in the kubeconfig files that skiff writes.
const clusterName = "skiff"

// ClientConfig is how client talks to the API server at url ("https://127.0.0.1:6443").
func (ca *CA) ClientConfig(url string, client Pair) *rest.Config {
	return &rest.Config{
		Host:            url,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem, CertData: client.Cert, KeyData: client.Key},
	}
}

// Kubeconfig is the same as a file for kubectl, with the certificates inside.
func (ca *CA) Kubeconfig(url string, client Pair) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[clusterName] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca.pem}
	config.AuthInfos[clusterName] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	config.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: clusterName}
	config.CurrentContext = clusterName
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encode a kubeconfig: %w", err)
	}
	return data, nil
}

// EnsureKubeconfig writes the file path, readable by its owner alone, by which user, a member of groups, reaches the API
// server at url. A file that does this already is left as it is, so that what somebody added to it stays.
func (ca *CA) EnsureKubeconfig(path, url, user string, groups ...string) error {
	if ca.kubeconfigServes(path, url, user, groups) {
		return nil
	}
	client, err := ca.Client(user, groups...)
	if err != nil {
		return err
	}
	data, err := ca.Kubeconfig(url, client)
	if err != nil {
		return err
	}
	if err := writeFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

func (ca *CA) kubeconfigServes(path, url, user string, groups []string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		return false
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return false
	}
	cluster, auth := config.Clusters[clusterName], config.AuthInfos[clusterName]
	if cluster == nil || auth == nil || cluster.Server != url || !bytes.Equal(cluster.CertificateAuthorityData, ca.pem) {
		return false
	}
	cert, ok := ca.vouches(Pair{Cert: auth.ClientCertificateData, Key: auth.ClientKeyData}, x509.ExtKeyUsageClientAuth)
	return ok && cert.Subject.CommonName == user && sameSet(cert.Subject.Organization, groups)
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
