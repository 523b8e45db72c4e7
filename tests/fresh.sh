#!/bin/sh
# What ./run fresh does: one of run's commands on a fresh Debian system, a throw-away chroot, so that what this machine
# happens to have cannot hide a missing step.
#
# Everything is mounted in a mount namespace of its own and runs in a PID namespace: however it ends, the kernel takes
# down processes and mounts with it, and what is removed afterwards holds no mount.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/x86-dm/fresh
marker='A throw-away system of ./run fresh'
archives=/etc/apt/sources.list.d
bundle=/etc/ssl/certs/ca-certificates.crt

usage() {
    cat <<END
usage: ./run fresh [--suite SUITE] COMMAND [ARG...]

Does ./run COMMAND (demo, test, ...) as root of a fresh Debian system, in a chroot: this clone's tracked files as they
stand, no home, no cache, this machine's /dev/kvm, network, package mirror and pip configuration. Recorded vectors
(DM_VECTORS, or ../shared/vectors) are there to be read.

  --suite SUITE  Debian's release (default: bookworm, which is Debian 12)

Needs root or user namespaces, and mmdebstrap (or, as root, debootstrap). A minimal system is kept in
$cache
and renewed every 30 days; what a run installs is removed with it.
END
}

say() { printf 'fresh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 2
}

# A root's namespaces; without being root, of a user namespace too.
namespaces='--mount --propagation private --pid --fork --kill-child'
[ "$(id -u)" = 0 ] || namespaces="--user --map-root-user --map-auto $namespaces"

# Runs a command as root of namespaces of its own.
enter() {
    # shellcheck disable=SC2086  # a list of options is meant
    unshare $namespaces -- "$@"
}

check_host() {
    enter true 2>/dev/null && return
    [ "$(id -u)" != 0 ] || die "this root cannot make namespaces and mounts (a container?); run it where it can"
    grep -q "^\($(id -un)\|$(id -u)\):" /etc/subuid 2>/dev/null ||
        die "needs root, or user namespaces, for which /etc/subuid and /etc/subgid have no line for $(id -un)"
    die "needs root, or user namespaces, which this system does not give to $(id -un): $(enter true 2>&1 | head -n 1)"
}

# Prints a line for each of the machine's own Debian mirrors: its address and "main" or "security".
mirrors() {
    cat /etc/apt/sources.list "$archives"/*.list "$archives"/*.sources 2>/dev/null | awk '
        function found(address) {
            sub("/*$", "", address)
            if (address ~ "/debian-security$") print address, "security"
            else if (address ~ "/debian$") print address, "main"
        }
        $1 == "URIs:" { for (i = 2; i <= NF; i++) found($i) }
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ "^[a-z+]+:/") { found($i); break } }' | sort -u -k 2,2
}

# Prints the new system's sources.list, from this machine's mirrors.
sources() {
    mirrors | while read -r address kind; do
        case $kind in
        main) printf 'deb %s %s main\n' "$address" "$1" "$address" "$1-updates" ;;
        security) printf 'deb %s %s-security main\n' "$address" "$1" ;;
        esac
    done
}

# Prints what reaches the mirrors from here: proxies, certificates, time-outs, as apt understands them.
apt_settings() {
    ! command -v apt-config >/dev/null || apt-config dump |
        grep -E '^Acquire::((http|https|ftp)::|Check-|Retries|ForceIPv)' | grep -v 'Proxy-Auto-Detect' || :
}

# Makes the minimal system $1 with tool $2 in archive $3; standard input is its sources.list.
bootstrap() {
    case $2 in
    mmdebstrap)
        mode=root
        [ "$(id -u)" = 0 ] || mode=unshare
        mmdebstrap --quiet --format=tar --mode="$mode" --variant=minbase --aptopt="$place/apt.conf" "$1" "$3" -
        ;;
    debootstrap)
        cat >"$place/sources.list"
        mirror=$(awk -v suite="$1" '$3 == suite { print $2 }' "$place/sources.list")
        # In a namespace, so that nothing it mounts stays.
        enter sh -eu -c 'debootstrap --variant=minbase "$1" "$2/base" "$3" >"$2/log" 2>&1 || { cat "$2/log"; exit 1; }
            cp "$2/sources.list" "$2/base/etc/apt/sources.list"
            tar -C "$2/base" --one-file-system -cf "$4" .' sh "$1" "$place" "$mirror" "$3"
        ;;
    esac
}

# Sets $base to the archive of a minimal system, made when it is not there or old.
find_base() {
    sources "$suite" >"$place/sources"
    grep -q " $suite main" "$place/sources" ||
        die "apt's sources name no Debian mirror (an address that ends in /debian); add one to $archives"
    apt_settings >"$place/apt.conf"
    tool=mmdebstrap
    command -v mmdebstrap >/dev/null || tool=debootstrap
    base=$cache/$suite-$(cat "$place/sources" "$place/apt.conf" | sha256sum | cut -c1-16).tar
    exec 8>"$base.lock"
    flock 8
    if [ -z "$(find "$base" -mtime -30 2>/dev/null)" ]; then
        say "making a minimal system of Debian's $suite with $tool"
        bootstrap "$suite" "$tool" "$base.part" <"$place/sources" >&2 || die "$tool failed"
        mv -T "$base.part" "$base"
    fi
    exec 8>&-
}

# Removes $1, a system of ours; files of other users than root's in it need the namespace that made them.
remove() {
    grep -qsx "$marker" "$1/owner" || return 0
    enter rm -rf --one-file-system "$1"
}

# Makes the place of this run and holds its lock (descriptor 7) as long as anything of it runs; removes what earlier
# runs had to leave, whose locks nobody holds.
make_place() {
    mkdir -p "$cache"
    exec 6>"$cache/lock"
    flock 6
    for old in "$cache"/run.*; do
        if [ -f "$old/owner" ] && flock -n "$old/owner" true; then remove "$old"; fi
    done
    place=$(mktemp -d "$cache/run.XXXXXX")
    printf '%s\n' "$marker" >"$place/owner"
    exec 7<"$place/owner"
    flock 7
    exec 6>&-
    mkdir "$place/root"
}

# Prints the clone's files, each ended by a NUL: those that git tracks and that are there.  A file that was never added
# is missing in the fresh system as it would be in anybody's clone.
clone_files() {
    cd "$root"
    if [ -e .git ]; then
        git -c safe.directory="$root" ls-files -z --deleted >"$place/deleted"
        git -c safe.directory="$root" ls-files -z | LC_ALL=C comm -z -23 - "$place/deleted"
    else
        find . ! -type d ! -path './build/*' ! -name '*.py[co]' ! -name '*.so' -print0
    fi
}

# Prints the variables that lead to package registries and certificates, and what CI sets, as NAME=VALUE.
variables() {
    env | grep -E '^(PIP_[A-Z_]+|[a-z]+_proxy|[A-Z]+_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CI|TERM|NO_COLOR|DM_STRICT)=' |
        grep -vE '^PIP_(CONFIG_FILE|CACHE_DIR|LOG|REQUIRE_VIRTUALENV|USER|TARGET|PREFIX|ROOT)=' || :
}

# Mounts $1 read-only at the same path of the new system, or at $2.
bind() {
    to=$system${2:-$1}
    mkdir -p "$to"
    mount --rbind "$1" "$to"
    # A user namespace has to leave what the mount forbids already.
    kept=$(findmnt -no VFS-OPTIONS --mountpoint "$to" | tr , '\n' |
        grep -xE 'nosuid|nodev|noexec|noatime|nodiratime|relatime' | tr '\n' ,) || :
    mount -o "remount,bind,${kept}ro" "$to"
}

# Carries over the pip configuration $1 as $2, and what it names on this machine: files are copied, directories mounted.
carry_pip() {
    mkdir -p "$system$(dirname "$2")"
    cp -L "$1" "$system$2"
    { cat "$1" && variables; } | sed -n 's/^[^=#;]*= *//p' | tr -s " ,'\"" '\n' | while IFS= read -r named; do
        case $named in
        file:///*/?*) named=$(dirname "${named#file://}") ;; # an index leads to files beside it
        /*/*) ;;
        *) continue ;;
        esac
        case $named/ in
        /bin/* | /boot/* | /dev/* | /lib*/* | /proc/* | /run/* | /sbin/* | /sys/* | /usr/bin/* | /usr/lib*/*) ;;
        *)
            if [ -f "$named" ] && [ ! -e "$system$named" ]; then
                mkdir -p "$system$(dirname "$named")"
                cp -L "$named" "$system$named"
            elif [ -d "$named" ] && [ ! -e "$system$named" ]; then
                bind "$named"
            fi
            ;;
        esac
    done
}

# Carries over what leads to the network and to the registries.
configure() {
    rm -f "$system/etc/resolv.conf"
    cp -L /etc/resolv.conf /etc/hosts "$system/etc/"
    cp "$place/sources" "$system/etc/apt/sources.list"
    cp "$place/apt.conf" "$system/etc/apt/apt.conf.d/90machine"
    if [ -f "$bundle" ]; then
        # Also where the package ca-certificates finds it when a run installs it.
        mkdir -p "$system/etc/ssl/certs" "$system/usr/local/share/ca-certificates"
        cp -L "$bundle" "$system$bundle"
        cp -L "$bundle" "$system/usr/local/share/ca-certificates/machine.crt"
    fi
    own=
    for file in /etc/xdg/pip/pip.conf /etc/pip.conf "$HOME/.pip/pip.conf" \
        "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "${PIP_CONFIG_FILE:-/dev/null}"; do
        [ -f "$file" ] || continue
        case $file in
        /etc/*) carry_pip "$file" "$file" ;;
        *) own=$file ;; # the last of a user's is the one that counts
        esac
    done
    [ -z "$own" ] || carry_pip "$own" /etc/pip-user.conf
}

# Mounts what a running system has, with no device but those named.
mount_devices() {
    mount -t proc proc "$system/proc"
    bind /sys
    mount -t tmpfs -o mode=755 dev "$system/dev"
    for device in null zero full random urandom tty kvm; do
        [ -e "/dev/$device" ] || continue
        : >"$system/dev/$device"
        mount --bind "/dev/$device" "$system/dev/$device"
    done
    mkdir "$system/dev/pts" "$system/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$system/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$system/dev/shm"
    for link in ptmx:pts/ptmx fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
        ln -s "${link#*:}" "$system/dev/${link%%:*}"
    done
}

# In the namespaces, as process 1: lays out the system and runs ./run "$@" in it.
inside() {
    place=$1 base=$2
    shift 2
    system=$place/root
    tar -C "$system" -xf "$base" --exclude='./dev/*'
    mount_devices
    configure
    mkdir "$system/srv/x86-dm"
    tar -C "$root" --null --no-recursion -T "$place/files" -cf - | tar -C "$system/srv/x86-dm" --no-same-owner -xf -
    set -- sh -c 'cd /srv/x86-dm && exec ./run "$@"' sh "$@"
    if [ -n "${DM_VECTORS:-}" ]; then
        [ -d "$DM_VECTORS" ] || die "DM_VECTORS names no directory: $DM_VECTORS"
        bind "$DM_VECTORS" /srv/vectors
        set -- DM_VECTORS=/srv/vectors "$@"
    elif [ -d "$root/../shared/vectors" ]; then
        bind "$root/../shared/vectors" /srv/shared/vectors
    fi
    [ ! -e "$system/etc/pip-user.conf" ] || set -- PIP_CONFIG_FILE=/etc/pip-user.conf "$@"
    variables >"$place/variables"
    while IFS= read -r line; do set -- "$line" "$@"; done <"$place/variables"
    # Not by exec: process 1 takes in the orphans, and when it ends the kernel ends whatever is left.
    chroot "$system" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Ends what runs in the new system and removes it, however this ends.
finish() {
    status=$?
    trap - EXIT HUP INT TERM
    # Without unshare the kernel ends process 1 of the namespace, and with it all others.
    [ -z "$child" ] || kill -KILL "$child" 2>/dev/null || :
    [ -z "$child" ] || wait "$child" 2>/dev/null || :
    if [ -n "$place" ] && [ ! -e "$place/owner" ]; then
        rmdir "$place"
    elif [ -n "$place" ]; then
        # They hold our lock: with a new descriptor it is had when the last of them is gone.
        exec 7<"$place/owner"
        flock -w 60 7 || :
        remove "$place"
    fi
    exit "$status"
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
    exit
fi

suite=bookworm
while :; do
    case ${1:-} in
    --suite)
        suite=${2:-}
        case $suite in '' | *[!a-z]*) die "--suite takes a release of Debian, such as bookworm or trixie" ;; esac
        shift 2
        ;;
    -h | --help) usage; exit ;;
    '') usage >&2; exit 2 ;;
    *) break ;;
    esac
done

check_host
child=''
place=''
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
make_place
find_base
clone_files >"$place/files"
say "./run $* on a fresh system of Debian's $suite"
began=$(date +%s)
# In the background, so that a signal ends this at once; with our input and, unlike other background jobs of a shell,
# open to the terminal's signals; and killed when we are.
exec 3<&0
# shellcheck disable=SC2086  # a list of options is meant
env --default-signal=INT,QUIT setpriv --pdeathsig KILL unshare $namespaces -- sh "$root/tests/fresh.sh" --inside "$place" "$base" "$@" <&3 3<&- &
child=$!
status=0
wait "$child" || status=$?
child=
say "./run $* on Debian's $suite: status $status after $(($(date +%s) - began)) s"
exit "$status"
