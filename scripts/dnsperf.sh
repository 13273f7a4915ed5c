#!/bin/sh
# Installs dnsperf, which `make bench-dns` asks with, with apt-get. Quiet when it is there.
set -eu

command -v dnsperf >/dev/null 2>&1 && exit
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
	echo "make bench-dns needs dnsperf; as root, on Debian: apt-get install dnsperf" >&2
	exit 1
fi
echo "installing dnsperf"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends dnsperf >/dev/null 2>&1 ||
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends dnsperf >/dev/null; }
