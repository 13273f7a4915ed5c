# skiff's commands. `make help` lists them.
#
# Directories of the cluster that `make up` starts; the tests use others.
SKIFF_DATA_DIR ?= /var/lib/skiff
SKIFF_RUN_DIR  ?= /run/skiff
export SKIFF_DATA_DIR SKIFF_RUN_DIR

# A version from git is given below; the Go tool need not look for one.
export GOFLAGS = -buildvcs=false

VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
KUBERNETES  := k8s.io/component-base/version
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Packages where goroutines meet. The race detector costs a second build of everything that they import.
RACE := ./agent ./apiserver/... ./controller ./dns ./handover ./proxy ./reconcile ./scheduler ./store/...

.DEFAULT_GOAL := build
.PHONY: build images up down test unit cluster-test lint bench bench-start bench-pods bench-agent bench-rollout bench-idle bench-api bench-net bench-store bench-dns bench-deployments clean help

build: ## bin/skiff, and bin/kubectl, the real one
	go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$(VERSION)" -o bin/skiff ./cmd/skiff
	go build -trimpath -ldflags "-s -w -X $(KUBERNETES).gitVersion=v1.37.2 -X $(KUBERNETES).gitMajor=1 -X $(KUBERNETES).gitMinor=37 -X $(KUBERNETES).gitTreeState=clean -X $(KUBERNETES).gitCommit=unknown -X $(KUBERNETES).buildDate=1970-01-01T00:00:00Z" -o bin/kubectl ./cmd/kubectl

images: ## bin/images/*.tar: the images of examples and tests, made of Debian packages
	go run ./cmd/images -out bin/images

up: ## a cluster on this machine, with the four files of examples/ applied (as root)
	scripts/up.sh

down: ## stop it and remove all that it made (as root)
	bin/skiff down --purge --data-dir $(SKIFF_DATA_DIR) --run-dir $(SKIFF_RUN_DIR)

test: lint unit cluster-test ## every test; those of whole clusters, of containers and of the kernel need root

lint: ## gofmt, go vet, staticcheck
	@files=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*')); test -z "$$files" || { echo "gofmt these: $$files"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	cd test/clients && go vet . && go run $(STATICCHECK) .

unit: ## the tests of each package; without root, those that need it are skipped
	@test "$$(id -u)" != 0 || { scripts/install.sh && scripts/testtools.sh; }
	@scripts/etcd.sh
	go test -race -timeout=20m $(RACE)
	go test $$(go list ./... | grep -vxF "$$(go list $(RACE); echo skiff/test)")

cluster-test: build images ## the promises of the README, each against a real cluster, and the libraries of other clients
	cd test/clients && go test -count=1 .
	@test "$$(id -u)" = 0 || { echo; echo "SKIPPED: the tests of whole clusters, which need root: sudo make test"; }
	@test "$$(id -u)" != 0 || { scripts/install.sh && scripts/testtools.sh; }
	@scripts/etcd.sh
	@test "$$(id -u)" != 0 || { set -x; go test -count=1 -timeout=20m ./test; }

bench: bench-start bench-pods bench-agent bench-rollout bench-idle bench-api bench-net bench-store bench-dns bench-deployments ## how fast and how small it is, against the floor of this machine (as root)

bench-start: build images ## from an empty directory until the API answers and the node is Ready
	go test -count=1 -v -timeout=10m -run=NONE -benchtime=1x -bench=Start ./test

bench-pods: build images ## from apply until Ready, for 1 pod and for 50, and the same containers without a cluster
	go test -count=1 -v -timeout=20m -run=NONE -benchtime=1x -bench='^BenchmarkPods$$' ./test

bench-rollout: build images ## 20 pods replaced under load: requests lost and time taken, and the same in Kubernetes' order
	go test -count=1 -v -timeout=20m -run=NONE -benchtime=1x -bench=Rollout ./test

bench-agent: build images ## the agent's exec against containerd's own client, its reading of three million lines, and 500 pods that do nothing
	go test -count=1 -v -timeout=10m -run=NONE -benchtime=1x -bench='Exec|Log|Memory' ./agent/containerd
	go test -count=1 -v -timeout=10m -run=NONE -benchtime=1x -bench=IdlePods ./test

bench-idle: build images ## memory, processor time and disk writes in a minute without change
	go test -count=1 -v -timeout=10m -run=NONE -benchtime=1x -bench='Idle$$' ./test

bench-api: build images ## the API against an etcd and a copy in memory, and with 100,000 objects; SKIFF_PEER names another server to compare with
	@scripts/etcd.sh
	go test -count=1 -v -timeout=30m -run=NONE -benchtime=1x -bench=API ./test

bench-net: ## Services and policies: programming 10,000, changing one, from its event to the kernel, new connections and throughput, against floors (as root)
	go test -count=1 -timeout=20m -run=NONE -bench='Fill|Change|Event|Load' ./proxy
	go test -count=1 -timeout=20m -run=NONE -benchtime=1x -bench='Connections|Throughput|Policies|Memory' ./proxy

bench-store: ## writes to the store against the disk alone; how large its file is after a million heartbeats
	go test -count=1 -run=NONE -bench=Put ./store/bolt
	go test -count=1 -timeout=20m -run=NONE -benchtime=1x -bench=Size ./store/bolt

bench-dns: build ## questions a second and how long one takes, against an echo; SKIFF_COREDNS names a CoreDNS binary to compare with
	@scripts/dnsperf.sh
	go test -count=1 -timeout=20m -run=NONE -benchtime=1x -bench='Queries|Latency|Changes|Visible' ./dns

bench-deployments: ## 100 Deployments scaled from nothing to 5,000 pods: time, processor time, memory
	go test -count=1 -timeout=20m -run=NONE -benchtime=1x -bench=Deployments ./controller

clean: ## remove what was built
	rm -rf bin

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
