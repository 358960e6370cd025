#!/bin/sh
# Installs the Debian packages that the interoperation tests use, where it can:
# on Debian or Ubuntu, as root or with passwordless sudo. Elsewhere it names
# what is missing and goes on: those tests are then skipped, each with its reason.
set -u
want="openssl curl swaks libnet-ssleay-perl isync mutt bind9 bind9-dnsutils postfix strace python3 ca-certificates bsdutils gcc libc6-dev"
have() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
command -v dpkg-query >/dev/null 2>&1 || { echo "tools: not a Debian system; install by hand: $want"; exit 0; }
missing=""
for p in $want; do have "$p" || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then sudo=""; elif sudo -n true 2>/dev/null; then sudo="sudo"; else
	echo "tools: missing$missing; install as root: apt-get install$missing"; exit 0
fi
echo "tools: installing$missing"
$sudo apt-get update -q >/dev/null || echo "tools: apt-get update had errors"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >/dev/null ||
	echo "tools: could not install all of$missing"
exit 0
