#!/bin/sh
# Prints the path of an etcd server, for the tests: the one on PATH, or else Debian's, which it unpacks into bin/ without
# installing it (the package would start a daemon).
set -eu
cd "$(dirname "$0")/.."

if command -v etcd; then
	exit
fi
if [ ! -x bin/etcd ]; then
	command -v apt-get >/dev/null 2>&1 || { echo "the tests of store/etcd need an etcd server on PATH" >&2; exit 1; }
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	(cd "$dir" && { apt-get download -qq etcd-server || { apt-get update -qq && apt-get download -qq etcd-server; }; } >/dev/null 2>&1)
	dpkg-deb -x "$dir"/etcd-server_*.deb "$dir"
	mkdir -p bin
	mv "$dir/usr/bin/etcd" bin/etcd
fi
echo "$PWD/bin/etcd"
