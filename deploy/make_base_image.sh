#!/bin/sh
# Make a base image for Dockerfile.sandbox where no registry answers: Debian's Python out of Debian's packages.
#
#     sh deploy/make_base_image.sh NAME:TAG [--suite SUITE] [--mirror URL] [--ca FILE]
#
# --suite    bookworm (Python 3.11, the default), trixie (3.13)
# --mirror   where the packages come from, such as a mirror of your own or a dated snapshot (then, with the same
#            SOURCE_DATE_EPOCH, the same image comes out every time); else what mmdebstrap takes for the suite
# --ca       certificates that pip shall trust in the `full` target, such as /etc/ssl/certs/ca-certificates.crt of a
#            machine behind a private authority; they do not reach the sandbox image
#
# Needs mmdebstrap (installed if you are root) and Docker, at DOCKER_HOST if that is set. The sandbox image is only
# built with this base: nothing of it but the files of Python remains.
set -eu

fail() {
    echo "make_base_image: $1" >&2
    exit 1
}

[ $# -ge 1 ] || fail "expected NAME:TAG for the image, found nothing"
image="$1"
shift
suite=bookworm
mirror=""
ca=""
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case "$1" in
        --suite) suite="$2" ;;
        --mirror) mirror="$2" ;;
        --ca) ca="$2" ;;
        *) fail "expected --suite, --mirror or --ca, found $1" ;;
    esac
    shift 2
done
[ -z "$ca" ] || [ -r "$ca" ] || fail "$ca cannot be read"
if ! command -v mmdebstrap >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mmdebstrap >&2
    else
        fail "mmdebstrap is missing: apt-get install mmdebstrap"
    fi
fi
docker version >/dev/null 2>&1 || fail "no Docker answers${DOCKER_HOST:+ at $DOCKER_HOST}: start it, or set DOCKER_HOST"

export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1700000000}"
archive="$(mktemp)"
trap 'rm -f "$archive"' EXIT INT TERM

set -- --quiet --variant=custom --format=tar --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
set -- "$@" --include=python3,python3-pip-whl,perl-base,debconf,base-files,base-passwd,dash,coreutils,libc-bin,sed
set -- "$@" --include=grep,diffutils,findutils,tar,dpkg,libstdc++6,libgomp1 # the last two for packages
set -- "$@" --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*'
set -- "$@" --dpkgopt='path-exclude=/usr/share/locale/*'
if [ -n "$ca" ]; then
    ca="$(realpath "$ca")"
    set -- "$@" --customize-hook='mkdir -p "$1/etc/ssl/certs"' \
        --customize-hook="upload '$ca' /etc/ssl/certs/ca-certificates.crt"
fi
mmdebstrap "$@" "$suite" "$archive" ${mirror:+"$mirror"}
docker import --change 'CMD ["python3"]' "$archive" "$image"
