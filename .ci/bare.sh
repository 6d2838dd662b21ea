# Sourced by .ci/fresh, .ci/image and deploy/build-image, after a `cd` to the top of the tree: bare Debian roots made by debootstrap.
#
# Package sources, certificate authorities, resolver and pip settings are taken from this machine at run time; none is written down.

# Runs the script again in a mount namespace of its own, so that no mount is left behind, whatever happens: enter_namespace "$0" "$@"
enter_namespace() {
    [ "$(id -u)" = 0 ] || { echo "$(basename "$1"): needs root, for debootstrap and chroot" >&2; exit 1; }
    [ "${BARE_NAMESPACE:-}" != "$1" ] || return 0
    BARE_NAMESPACE=$1 exec unshare --mount --propagation private "$@"
}

# Makes an empty directory, names it in $room, and removes it at the end. In memory if there is plenty: much faster, and gone with the namespace.
make_room() {
    # $1 = name, $2 = GiB wanted
    room=$(mktemp -d "/var/tmp/$1.XXXXXX")
    trap 'leave_room' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    free=$(awk '$1 == "MemAvailable:" { print int($2 / 1048576) }' /proc/meminfo)
    [ "$free" -lt $(( $2 + 2 )) ] || mount -t tmpfs -o "size=$2g,mode=700" "$1" "$room"
}
leave_room() {
    # what is mounted in there goes first, deepest first
    awk -v room="$room" 'index($5, room) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r path; do umount -l "$path" 2>/dev/null || true; done
    rm -rf --one-file-system "$room"
}

# Makes a minimal Debian root. One that was made within the last day is kept in .cache and unpacked instead.
make_root() {
    # $1 = suite, $2 = directory, $3 = packages to include
    kept=.cache/roots/$1-$(printf %s "$3" | tr , -).tar
    if [ -z "$(find "$kept" -mtime -1 2>/dev/null)" ]; then
        mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
        [ -n "$mirror" ] || { echo "this machine has no apt package source to take" >&2; exit 1; }
        debootstrap --variant=minbase --include="$3" "$1" "$2" "$mirror" >"$room/log" 2>&1 || {
            tail -n 20 "$room/log" >&2
            exit 1
        }
        rm -f "$2"/var/cache/apt/archives/*.deb
        umount "$2/proc" 2>/dev/null || true
        mkdir -p .cache/roots
        tar --create --one-file-system --xattrs --directory "$2" --file "$kept.new" . && mv "$kept.new" "$kept"
    else
        mkdir -p "$2"
        tar --extract --xattrs --directory "$2" --file "$kept"
    fi
}

# Gives a root this machine's way to the outside.
open_root() {
    for path in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/xdg/pip /root/.config/pip; do
        [ ! -e "$path" ] || { mkdir -p "$1$(dirname "$path")"; cp -rL "$path" "$1$(dirname "$path")/"; }
    done
    apt-config dump Acquire >"$1/etc/apt/apt.conf.d/99host"
    cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
}
