// Package test holds skiff to its promises, on real clusters: the server that `make build` made, the real kubectl, a real
// containerd, and containers with nginx in them.
//
// Each cluster is alone. Its node is a network namespace with one link, to a second namespace that stands for everything
// outside; from neither is there a way to the machine's own network. Its state lives in two directories below a temporary
// one. When a test is over, passed or not, `skiff down --purge` removes the cluster; whatever is left of it then (a process, a
// mount, a link, an nft table, a cgroup, a file) fails the test, and is removed too.
//
// Tests read like terminal sessions: a [shell] runs command lines on the node, and says what they print. Most of them
// share one cluster, each in a namespace of its own; those that stop the server have a cluster for themselves.
//
// They need root, the binaries in bin/ and the images in bin/images/: `make cluster-test` sees to that.
package test
