#!/bin/sh
# Both generations of Compose for the tests of docker-compose.yml: 1.29 from Debian, installed; 2 from a later Debian,
# unpacked into DIR and nowhere else. Idempotent. What is missing needs root and Debian 12's apt-get.
#
#     sh deploy/compose_clients.sh [DIR]        .cache/compose of the checkout if left out
set -eu
cd "$(dirname "$0")/.."
directory="${1:-$PWD/.cache/compose}"
SUITE_OF_V2=trixie

fail() {
    echo "compose_clients: $1" >&2
    exit 1
}

require_apt() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "needs root and Debian's apt-get: $1"
}

provide_v1() {
    docker-compose version --short 2>/dev/null | grep -q '^1\.' && return 0
    require_apt "install docker-compose 1.29 yourself"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker-compose >&2
}

provide_v2() {
    [ ! -x "$directory/docker-compose" ] || return 0
    require_apt "put Compose 2 at $directory/docker-compose yourself"
    mirror="$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)"
    [ -n "$mirror" ] || fail "apt-get knows no mirror"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/state/partial" "$directory"
    chmod 755 "$work"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $mirror $SUITE_OF_V2 main" >"$work/sources.list"
    set -- -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/state"
    apt-get "$@" update >&2
    (cd "$work" && apt-get "$@" -o APT::Sandbox::User=root download docker-compose >&2)
    dpkg-deb -x "$work"/docker-compose_*.deb "$work/unpacked"
    cp "$work/unpacked/usr/libexec/docker/cli-plugins/docker-compose" "$directory/docker-compose.new"
    mv "$directory/docker-compose.new" "$directory/docker-compose"
}

provide_v1
provide_v2
