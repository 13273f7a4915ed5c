// Package clients holds skiff against the libraries that operators and tools are made of: client-go, controller-runtime and
// Helm. They meet the server that `make build` made, without an agent, on a loopback address and over TLS. Nothing here knows
// a package of skiff: all that a test is given is a kubeconfig file.
//
// No container is needed, so no root is: what the tests look at is the API server and the controllers.
package clients
