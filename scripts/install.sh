#!/bin/sh
# Installs what skiff needs of the host, with apt-get; where there is none, says what is missing. Quiet when nothing is.
set -eu

# newer VERSION MAJOR MINOR: is VERSION at least that?
newer() {
	major=${1%%.*}
	rest=${1#*.}
	minor=${rest%%.*}
	[ "$major" -gt "$2" ] || { [ "$major" -eq "$2" ] && [ "$minor" -ge "$3" ]; }
}

has() { command -v "$1" >/dev/null 2>&1; }

missing=
if has containerd; then
	version=$(containerd --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
	if ! newer "${version:-0.0}" 1 6; then
		echo "skiff needs containerd 1.6 or newer; this one is ${version:-of an unknown version}: $(command -v containerd)" >&2
		exit 1
	fi
fi
has containerd && has containerd-shim-runc-v2 || missing="$missing containerd"
has runc || missing="$missing runc"
has ip || missing="$missing iproute2"      # For the tests, which run in network namespaces.
has nsenter || missing="$missing util-linux"
[ -n "$missing" ] || exit 0

if ! has apt-get; then
	echo "skiff needs these packages, and there is no apt-get to install them with:$missing" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "skiff needs these packages; install them as root: apt-get install$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # One word a package.
apt-get install -y -qq --no-install-recommends $missing >/dev/null
