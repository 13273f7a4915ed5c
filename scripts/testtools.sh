#!/bin/sh
# Installs what only the tests need, with apt-get as root: nft, which reads the rules that the proxy writes, and the reference
# CNI plugins. Where that can't be done the tests that need them are skipped. Quiet when nothing is missing.
set -eu

missing=
command -v nft >/dev/null 2>&1 || missing="$missing nftables"
[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null 2>&1 || exit 0

echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # One word a package.
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
