#!/bin/sh
# Install Shipkeeper as a service of this host, or upgrade it in place. Safe to run again at any time.
#
#   sh deploy/install.sh            from a checkout; needs root, python3 >= 3.11 with venv
#
# Each run makes a release of its own below /opt/shipkeeper/releases and switches /opt/shipkeeper/bin to it in
# one rename, so a running daemon never sees half an upgrade, and a launcher that still serves runs of an
# older release keeps its files. Running services are not touched.
#
# pip's own settings apply: PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR installs from a directory of wheels.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
home=/opt/shipkeeper

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "cannot install to $home: not root; run it with sudo"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "cannot use $python: Python 3.11 or newer is needed; name one with PYTHON="
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "cannot make a virtual environment: the venv module is missing; apt-get install python3-venv"
[ -f "$checkout/pyproject.toml" ] || fail "cannot find pyproject.toml in $checkout: run it from a checkout"

# --- the program ---------------------------------------------------------------------------------------
getent group shipkeeper >/dev/null || groupadd --system shipkeeper

release=$home/releases/$(date -u +%Y%m%dT%H%M%S)-$$
build=$(mktemp -d)
# A release that did not become whole leaves nothing behind.
trap 'rm -rf "$build"; [ "$(readlink "$home/bin" 2>/dev/null)" = "$release/bin" ] || rm -rf "$release"' EXIT
trap 'exit 1' HUP INT TERM

install -d -m 0755 "$home" "$home/releases"
"$python" -m venv "$release"
# Built from a copy: a build in the checkout would leave files of root's there.
cp -R "$checkout/pyproject.toml" "$checkout/supervisor" "$build/"
[ ! -f "$checkout/README.md" ] || cp "$checkout/README.md" "$build/"
"$release/bin/python" -m pip install --quiet --disable-pip-version-check "$build"
# As the daemon and the launcher run it, so that no start of theirs compiles anything.
"$release/bin/python" -OO -m compileall -q "$release/lib" || true
"$release/bin/shipkeeper" version >/dev/null || fail "cannot use the new release: 'shipkeeper version' failed"

ln -s "$release/bin" "$home/bin.new.$$"
mv -T "$home/bin.new.$$" "$home/bin"
ln -sfn "$home/bin/shipkeeper" /usr/local/bin/shipkeeper

install -D -m 0644 "$checkout/deploy/README.md" "$home/share/doc/shipkeeper/README.md"
install -D -m 0644 -t "$home/share/prometheus" "$checkout"/deploy/prometheus/*.yaml

# --- the host's side -------------------------------------------------------------------------------------
install -d -m 0755 /etc/shipkeeper /etc/shipkeeper/projects
# The administrator's file is never overwritten; the current defaults lie beside it.
[ -e /etc/shipkeeper/shipkeeper.yaml ] ||
    install -m 0644 "$checkout/deploy/shipkeeper.yaml" /etc/shipkeeper/shipkeeper.yaml
install -m 0644 "$checkout/deploy/shipkeeper.yaml" "$home/share/shipkeeper.yaml"
install -D -m 0644 "$checkout/deploy/shipkeeper.tmpfiles" /usr/lib/tmpfiles.d/shipkeeper.conf
install -D -m 0644 -t /etc/systemd/system \
    "$checkout/deploy/shipkeeper.service" "$checkout/deploy/shipkeeper-services.service"

if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/shipkeeper.conf
    systemctl daemon-reload
    systemctl --quiet enable shipkeeper.service
    if [ "${START:-1}" = 1 ]; then
        # Also the upgrade: it replaces the daemon and leaves the services running.
        systemctl restart shipkeeper.service
        started="is running (systemctl status shipkeeper)"
    else
        started="will start at the next boot"
    fi
else
    install -d -m 0750 -g shipkeeper /run/shipkeeper
    install -d -m 0700 /var/lib/shipkeeper
    started="is not started: this host does not run systemd; run '$home/bin/shipkeeper daemon' under its own init"
fi

# --- older releases --------------------------------------------------------------------------------------
# One that a process still runs from (the launcher outlives upgrades) stays.
for old in "$home"/releases/*; do
    [ "$old" != "$release" ] || continue
    grep -qsF "$old/" /proc/[0-9]*/cmdline || rm -rf "$old"
done

echo "shipkeeper $("$home/bin/shipkeeper" version 2>/dev/null | head -n 1 | sed 's/^shipkeeper //') $started"
