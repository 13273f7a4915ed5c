#!/bin/sh
# What `make up` does: a cluster on this machine, and the walk of examples/README.md on it.
#
#   SKIFF_DATA_DIR, SKIFF_RUN_DIR   where the cluster lives
#   SKIFF_REGISTRY=off              do not ask whether docker.io answers: it does not
set -eu
cd "$(dirname "$0")/.."
data=${SKIFF_DATA_DIR:-/var/lib/skiff}
run=${SKIFF_RUN_DIR:-/run/skiff}

skiff() { bin/skiff "$@" --data-dir "$data" --run-dir "$run"; }
kubectl() { bin/skiff kubectl --data-dir "$data" "$@"; }

[ "$(id -u)" = 0 ] || { echo "make up starts a node, which needs root: sudo make up" >&2; exit 1; }
scripts/install.sh
make --no-print-directory build
found=$(bin/skiff check) || { echo "$found" >&2; exit 1; }

finish() {
	echo
	echo "kubeconfig: $data/admin.kubeconfig"
	echo "try next:   bin/skiff kubectl get pods -o wide"
	echo "            bin/skiff kubectl exec -it deploy/app1 -- /bin/sh"
	echo "            bin/skiff kubectl scale deployment app2 --replicas=3"
}

# A cluster that runs is its user's: what was changed there must stay.
if skiff status >/dev/null 2>&1 && kubectl get deployment app1 app2 >/dev/null 2>&1; then
	echo "the cluster is up already, and was left as it is"
	finish
	exit 0
fi

if [ "${SKIFF_REGISTRY:-}" != off ] && go run ./cmd/registry; then
	echo "image: nginx is pulled from docker.io"
else
	make --no-print-directory images
	mkdir -p "$data/images"
	cp bin/images/nginx.tar "$data/images/"
	echo "image: nginx is made here of Debian packages, as docker.io does not answer"
fi

skiff up
for name in deployment1 service1 deployment2 service2; do
	kubectl apply -f "examples/$name.yaml"
done
kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=120s
echo "from app1's pod: curl http://app2-service:80"
kubectl exec deploy/app1 -- curl -sS --max-time 10 http://app2-service:80

echo
echo "done: a cluster of one node, two Deployments, two Services, and a request from a pod of the one to the Service of the other"
finish
