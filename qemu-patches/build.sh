#!/bin/sh
# Builds a small qemu-system-x86_64 with the x86-dm series and prints its path.  Safe to repeat and to run side by side.
set -eu
unset PYTHONPATH PYTHONSAFEPATH # QEMU's build scripts import what lies beside them

version=1:10.0.13+ds-0+deb13u1
suite=trixie
meson=1.5.0
packages='build-essential ninja-build pkg-config python3-venv libglib2.0-dev libpixman-1-dev zlib1g-dev libfdt-dev
    libzmq3-dev libmsgpack-dev seabios qemu-system-data util-linux'

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
client=$here/../protocol/x86_dm.h
cache=${XDG_CACHE_HOME:-$HOME/.cache}/x86-dm

say() { printf 'build.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit "${status:-1}"
}

usage() {
    cat <<END
usage: qemu-patches/build.sh [--path | --source | --missing]

Builds QEMU $version with the x86-dm series and prints the binary's path.
Binary and sources are kept in $cache.

  --path     only print where the binary is or would be
  --missing  only print the Debian packages that are missing for building and running it
  --source   only unpack the sources, apply the series and print the tree's path
END
}

# Names the build: version, series, devices, the client copied in, and how it is built.
key() {
    {
        echo "$version"
        cat "$here"/*.patch "$here/dm.mak" "$here/build.sh" "$client"
    } | sha256sum | cut -c1-16
}

missing_packages() {
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

install_packages() {
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    as_root=
    command="apt-get update && apt-get install -y --no-install-recommends $missing"
    if [ "$(id -u)" != 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            status=2
            die "packages are missing; as root run: $command"
        fi
        as_root=sudo
    fi
    say "installing $missing"
    $as_root sh -c "export DEBIAN_FRONTEND=noninteractive; $command" >&2
}

# Prints the machine's own Debian mirror, from whichever form its sources have.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '
        $1 == "URIs:" { for (i = 2; i <= NF; i++) print $i }
        $1 == "deb" || $1 == "deb-src" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z+]+:\//) { print $i; break } }
    ' | sed 's:/*$::' | grep '/debian$' | head -n 1
}

# Downloads Debian's source package to $1.
download() {
    ls "$1"/*.dsc >/dev/null 2>&1 && return 0
    from=$(mirror)
    [ -n "$from" ] || die "no Debian mirror in /etc/apt/sources.list or sources.list.d; put the source package into $1"
    mkdir -p "$1.part/lists/partial"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb-src [signed-by=$keyring] $from $suite main" >"$1.part/sources.list"
    (
        cd "$1.part"
        set -- -o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$PWD/lists" \
            -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root
        say "downloading qemu $version"
        apt-get "$@" update >&2
        apt-get "$@" source --download-only "qemu=$version" >&2
        rm -rf lists sources.list
    ) || die "the source of qemu $version cannot be had from suite $suite"
    mv "$1.part" "$1"
}

# Unpacks the source package in $1 to $2 and applies the series.
unpack() {
    rm -rf "$2"
    dpkg-source --no-check --no-copy -x "$1"/*.dsc "$2" >/dev/null
    for patch in "$here"/*.patch; do
        patch -d "$2" -p1 --batch --no-backup-if-mismatch <"$patch" >/dev/null ||
            die "$(basename "$patch") does not apply to qemu $version"
    done
    cp "$here/dm.mak" "$2/configs/devices/x86_64-softmmu/dm.mak"
    cp "$client" "$2/target/i386/x86-dm/x86_dm.h"
}

# Builds tree $1 in $2.
build() {
    mkdir -p "$2"
    (
        cd "$2"
        python3 -m venv venv
        venv/bin/pip --quiet install "meson==$meson"
        "$1/configure" --python="$PWD/venv/bin/python3" --target-list=x86_64-softmmu --without-default-features \
            --without-default-devices --with-devices-x86_64=dm --enable-system --enable-tcg --enable-kvm \
            --enable-pixman --enable-x86-dm --disable-install-blobs --disable-werror --disable-debug-info
        nice ninja qemu-system-x86_64
    ) >"$2/log" 2>&1 || {
        tail -n 30 "$2/log" >&2
        die "the build failed; all of its output is in $2/log"
    }
}

what=${1:-build}
case $what in
--help | -h) usage; exit 0 ;;
--missing) missing_packages; exit 0 ;;
--path | --source | build) ;;
*) usage >&2; status=2; die "unknown option $what" ;;
esac

place=$cache/qemu-$(key)
binary=$place/qemu-system-x86_64
if [ "$what" = --path ] || { [ "$what" = build ] && [ -x "$binary" ]; }; then
    echo "$binary"
    exit 0
fi

install_packages
mkdir -p "$cache"
exec 9>"$cache/qemu.lock"
flock 9
download "$cache/qemu-source-${version#*:}"
if [ "$what" = --source ]; then
    unpack "$cache/qemu-source-${version#*:}" "$place.tree"
    echo "$place.tree"
    exit 0
fi
if [ ! -x "$binary" ]; then
    say "building qemu $version in $place (a few minutes)"
    mkdir -p "$place"
    unpack "$cache/qemu-source-${version#*:}" "$place/tree"
    build "$place/tree" "$place/build"
    strip -o "$binary.part" "$place/build/qemu-system-x86_64"
    mv "$binary.part" "$binary"
    rm -rf "$place/tree" "$place/build"
fi
echo "$binary"
