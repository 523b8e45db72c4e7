#!/bin/sh
# Builds a small qemu-system-x86_64 with the x86-dm series and prints its path.  Safe to repeat and to run side by side.
set -eu
unset PYTHONPATH PYTHONSAFEPATH # QEMU's build scripts import what lies beside them

default=10.0.13
packages='build-essential ninja-build pkg-config python3-venv libglib2.0-dev libpixman-1-dev zlib1g-dev libfdt-dev
    libzmq3-dev seabios qemu-system-data util-linux'

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
client=$here/../protocol # x86_dm.h, and x86-dm.pc by which meson finds it
cache=${XDG_CACHE_HOME:-$HOME/.cache}/x86-dm

say() { printf 'build.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit "${status:-1}"
}

usage() {
    cat <<END
usage: qemu-patches/build.sh [--qemu VERSION] [--path | --source | --each | --missing]

Builds QEMU with the x86-dm series and prints the binary's path.
Binary and sources are kept in $cache.

  --qemu VERSION  which QEMU: 10.0.13 (Debian trixie's, the default) or 10.2.2 (Debian sid's)
  --path          only print where the binary is or would be
  --missing       only print the Debian packages that are missing for building and running it
  --source        only unpack the sources, apply the series and print the tree's path
  --each          build after each patch, and name the patches that have been built
END
}

# Sets where a QEMU comes from, and what it is built with.
choose() {
    case $1 in
    10.0.13) version=1:10.0.13+ds-0+deb13u1 suite=trixie meson=1.5.0 ;;
    10.2.2) version=1:10.2.2+ds-1 suite=sid meson=1.9.0 ;;
    *)
        status=2
        die "there is no series for QEMU $1; there is one for 10.0.13 and 10.2.2"
        ;;
    esac
    own=$here/$1 # patches that are other ones for this version, and what it needs besides
}

# Prints the series for this version, in order.
series() {
    for patch in "$here"/[0-9]*.patch; do
        number=$(basename "$patch" | cut -c1-4)
        other=$(ls "$own/$number"-*.patch 2>/dev/null) || other=$patch
        echo "$other"
    done
    for patch in "$own"/[0-9]*.patch; do
        number=$(basename "$patch" | cut -c1-4)
        ls "$here/$number"-*.patch >/dev/null 2>&1 || [ ! -e "$patch" ] || echo "$patch"
    done
}

# Names the build: version, series, devices, the client, and how it is built.
key() {
    {
        echo "$version"
        series | xargs cat "$here/dm.mak" "$here/build.sh" "$client/x86_dm.h" "$client/x86-dm.pc"
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

# Unpacks the source package in $1 to $2.
unpack() {
    rm -rf "$2"
    dpkg-source --no-check --no-copy -x "$1"/*.dsc "$2" >/dev/null
    cp "$here/dm.mak" "$2/configs/devices/x86_64-softmmu/dm.mak"
}

# Applies patch $2 to tree $1.
apply() {
    patch -d "$1" -p1 --batch --no-backup-if-mismatch <"$2" >/dev/null ||
        die "$(basename "$2") does not apply to qemu $version"
}

apply_all() {
    series | while read -r patch; do apply "$1" "$patch"; done
}

# Runs a step of a build with its output in log $1.
logged() {
    log=$1
    shift
    "$@" >>"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        die "the build failed; all of its output is in $log"
    }
}

# Configures tree $1 for building it in the current directory.
configure() {
    python3 -m venv venv
    venv/bin/pip --quiet install "meson==$meson"
    "$1/configure" --python="$PWD/venv/bin/python3" --target-list=x86_64-softmmu --without-default-features \
        --without-default-devices --with-devices-x86_64=dm --enable-system --enable-tcg --enable-kvm \
        --enable-pixman --disable-install-blobs --disable-werror --disable-debug-info
}

# Builds in the current directory, with the client as soon as the tree has an option for it.
build() {
    grep -q x86_dm "$1/meson_options.txt" &&
        pyvenv/bin/meson configure -Dx86_dm=enabled "-Dpkg_config_path=$client"
    nice ninja qemu-system-x86_64
}

what=build
choose "$default"
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --qemu)
        status=2
        [ $# -gt 1 ] || die "--qemu needs a version"
        choose "$2"
        shift
        ;;
    --missing | --path | --source | --each) what=$1 ;;
    *) usage >&2; status=2; die "unknown option $1" ;;
    esac
    shift
done
if [ "$what" = --missing ]; then
    missing_packages
    exit 0
fi

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
    apply_all "$place.tree"
    echo "$place.tree"
    exit 0
fi
if [ "$what" = --each ] || [ ! -x "$binary" ]; then
    say "building qemu $version in $place (a few minutes)"
    rm -rf "$place/tree" "$place/build"
    mkdir -p "$place/build"
    unpack "$cache/qemu-source-${version#*:}" "$place/tree"
    [ "$what" = --each ] || apply_all "$place/tree"
    cd "$place/build"
    logged "$place/log" configure "$place/tree"
    if [ "$what" = --each ]; then
        series | while read -r patch; do
            apply "$place/tree" "$patch"
            logged "$place/log" build "$place/tree"
            basename "$patch"
        done
    else
        logged "$place/log" build "$place/tree"
    fi
    cd "$here"
    strip -o "$binary.part" "$place/build/qemu-system-x86_64"
    mv "$binary.part" "$binary"
    rm -rf "$place/tree" "$place/build"
fi
[ "$what" = --each ] || echo "$binary"
