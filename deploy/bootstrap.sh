#!/bin/sh
# Install the Debian or Ubuntu packages that a target of the Makefile needs, and only those that are missing.
#
#   sh deploy/bootstrap.sh run      what `make run` needs: venv, libseccomp, where base images come from
#   sh deploy/bootstrap.sh test     the same, and what the tests ask for
#   sh deploy/bootstrap.sh vm       the same, and qemu for `make test-vm`
#
# What is missing is found by looking for the thing itself, so a Python from elsewhere counts too. Nothing is
# fetched when nothing is missing. PYTHON names the interpreter (python3).
set -eu

purpose=${1:?"usage: bootstrap.sh run|test|vm"}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
PATH=$PATH:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive

fail() {
    echo "bootstrap.sh: $*" >&2
    exit 1
}

missing=
need() { # PACKAGE COMMAND...: the package is needed unless the command succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
library() { ldconfig -p | grep -qF "$1"; }
# Whatever is not here when the command is looked up is in the package of that name.
has() { command -v "$1"; }

need python3 has "$python"
need python3-venv "$python" -c 'import ensurepip, venv'
need libseccomp2 library libseccomp.so.2
need skopeo has skopeo
need nftables has nft
need mmdebstrap has mmdebstrap
need debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
case $purpose in
run) ;;
test | vm)
    need procps has ps
    need iproute2 has ip
    need kmod has modprobe
    need e2fsprogs has mkfs.ext4
    need zstd has zstd
    need busybox-static has busybox
    need git has git
    need musl-tools has musl-gcc
    [ "$purpose" = test ] || need qemu-system-x86 has qemu-system-x86_64
    ;;
*) fail "unknown purpose $purpose: run, test or vm" ;;
esac

# A fresh machine may be installing its own updates just now.
apt() { apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
updated=
update() {
    [ -n "$updated" ] || apt update
    updated=1
}

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null ||
        fail "cannot install$missing: this is no Debian or Ubuntu; install them by hand and run make again"
    [ "$(id -u)" = 0 ] || fail "cannot install$missing: not root; run: sudo apt-get install$missing"
    echo "installing$missing"
    update
    # shellcheck disable=SC2086 # a list of words
    apt install -y --no-install-recommends $missing >/dev/null
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "cannot use $python ($("$python" -V)): Python 3.11 or newer is needed; name one with PYTHON="
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "cannot make a virtual environment with $python: its ensurepip is missing; name another with PYTHON="

# Programs alone: Debian's packages `prometheus` and `docker-registry` would start servers on the host.
tools=$PWD/.cache/tools
tool() { # PROGRAM PACKAGE WHAT: the program, unpacked from its package
    if command -v "$1" >/dev/null || [ -x "$tools/$1" ]; then return; fi
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "bootstrap.sh: no $1: $3 will be skipped" >&2
        return
    fi
    echo "unpacking $1"
    update
    new=$(mktemp -d)
    trap 'rm -rf "$new"' EXIT
    (cd "$new" && apt -o APT::Sandbox::User=root download "$2" && dpkg-deb -x "$2"_*.deb root)
    mkdir -p "$tools"
    mv "$new/root/usr/bin/$1" "$tools/$1"
    rm -rf "$new"
}
if [ "$purpose" != run ]; then
    tool promtool prometheus "the tests of deploy/prometheus"
    tool docker-registry docker-registry "the tests of push and pull"
fi
