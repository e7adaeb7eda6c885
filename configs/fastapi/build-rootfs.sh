#!/bin/bash
# Build the three root file systems of this example with mmdebstrap, from the host's own Debian or Ubuntu sources.
#
#   build-rootfs.sh [DIRECTORY]      default: .cache/rootfs of the checkout
#
# Each is a directory <name>-<digest>, and <name> is a link to the current one. The digest covers this script, the
# packages and the sources, so a second run does nothing; FORCE=1 builds again (to get newer packages). A tree
# appears whole or not at all, and is never changed afterwards: services may be running from it. Those that are
# no longer current are removed once no service mounts them.
set -euo pipefail

target=${1:-$(cd "$(dirname "$0")/../.." && pwd)/.cache/rootfs}

declare -A packages=(
    [app]="python3 python3-fastapi python3-uvicorn python3-httpx python3-asyncpg python3-redis"
    [db]="postgresql"
    [cache]="redis-server"
)

fail() {
    echo "build-rootfs.sh: $*" >&2
    exit 1
}

command -v mmdebstrap >/dev/null || fail "cannot build root file systems: no mmdebstrap; apt-get install mmdebstrap"
[ "$(id -u)" = 0 ] || fail "cannot build root file systems: not root; run it with sudo"
# shellcheck source=/dev/null
. /etc/os-release
suite=${VERSION_CODENAME:?"/etc/os-release names no VERSION_CODENAME"}

mkdir -p "$target"
target=$(cd "$target" && pwd)
exec 9>"$target/.lock" # two runs at once: the second waits, and finds everything built
flock 9
work=$(mktemp -d "$target/.new.XXXXXX")
declare -A running=()
cleanup() { # mmdebstrap unmounts what it mounted when it is ended, and must be gone before its tree is
    [ ${#running[@]} = 0 ] || kill "${running[@]}" 2>/dev/null || true
    wait
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- sources -------------------------------------------------------------------------------------------------
# The host's own files, so that mirrors, keys and options hold, less the repositories of third parties: apt knows
# from their Release files which are the distribution's.
find_archives() {
    archives=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" || $1 == "Ubuntu" {sub("/$", "", $2); print $2}' | sort -u | tr '\n' ' ')
    [ -n "$archives" ]
}
find_archives || { apt-get update -qq && find_archives; } || # it never ran here
    fail "cannot find a Debian or Ubuntu archive in /etc/apt: run apt-get update and look"

sources=()
number=0
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    case $file in
    *.list) new=$work/$number.list separator='\n' style=line ;;
    *) new=$work/$number.sources separator='' style=paragraph ;;
    esac
    grep -v '^ *#' "$file" | awk -v RS="$separator" -v ORS='\n\n' -v style="$style" \
        -v archives="$archives" '
        BEGIN { split(archives, known, " ") }
        style == "line" && !/^ *deb / { next }
        style == "paragraph" && /(^|\n)Enabled: *(no|false|0)/ { next }
        { for (i in known) if (index($0, known[i])) { print; next } }' >"$new" || true
    [ -s "$new" ] && sources+=("$new")
    number=$((number + 1))
done
[ ${#sources[@]} -gt 0 ] || fail "cannot find in /etc/apt what apt knows: $archives"

# How the host reaches them (a proxy, retries), which mmdebstrap does not take over by itself.
apt-config dump --format '%f "%v";%n' | grep -E '^Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv)' |
    grep -v ' "";$' >"$work/apt.conf" || true

# --- build ---------------------------------------------------------------------------------------------------
digest_of() {
    cat "$0" "${sources[@]}" /etc/os-release <(dpkg --print-architecture; echo "$1") | sha256sum | cut -c1-12
}

# Unpacked by dpkg without a sync for each file, and without what no service reads.
options=(--quiet --mode=root --variant=essential --skip=check/qemu --aptopt="$work/apt.conf"
    --dpkgopt=force-unsafe-io
    --dpkgopt=path-exclude='/usr/share/man/*'
    --dpkgopt=path-exclude='/usr/share/info/*'
    --dpkgopt=path-exclude='/usr/share/locale/*'
    --dpkgopt=path-exclude='/usr/share/doc/*'
    --dpkgopt=path-include='/usr/share/doc/*/copyright')
# Debian's package makes a database at installation; ours is made on the volume, by db/entrypoint.sh.
no_cluster='mkdir -p "$1/etc/postgresql-common/createcluster.d" &&
    echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.d/none.conf"'

declare -A current=()
for name in "${!packages[@]}"; do
    current[$name]=$name-$(digest_of "${packages[$name]}")
    if [ "${FORCE:-0}" = 1 ]; then
        current[$name]+=-$(date -u +%Y%m%dT%H%M%S)
    else
        # One that was forced counts as well: the newest of this digest.
        for found in "$target/${current[$name]}"*; do
            [ -d "$found" ] && current[$name]=${found##*/}
        done
    fi
    if [ ! -d "$target/${current[$name]}" ]; then
        echo "building root file system $name: ${packages[$name]}"
        mmdebstrap "${options[@]}" --include="${packages[$name]// /,}" --essential-hook="$no_cluster" \
            "$suite" "$work/$name" "${sources[@]}" >"$work/$name.log" 2>&1 9>&- &
        running[$name]=$!
    fi
done
broken=
for name in "${!running[@]}"; do
    if wait "${running[$name]}"; then
        mv "$work/$name" "$target/${current[$name]}"
    else
        broken="$broken $name"
        tail -n 20 "$work/$name.log" >&2
    fi
    unset "running[$name]"
done
[ -z "$broken" ] || fail "cannot build root file system$broken: mmdebstrap failed, its last lines stand above"

for name in "${!packages[@]}"; do
    ln -sfnT "${current[$name]}" "$work/link"
    mv -T "$work/link" "$target/$name"
    for old in "$target/$name"-*; do
        [ "${old##*/}" = "${current[$name]}" ] || grep -qsF "$old" /proc/[0-9]*/mountinfo ||
            rm -rf --one-file-system "$old"
    done
done
