#!/bin/sh
# Prepare the machine for docker-compose.yml: the directories with their owners, the installation's secrets, and .env.
# As root, before the first start, and on a machine without systemd after each boot. Idempotent: what is there stays.
#
#     sudo sh deploy/compose/prepare.sh [DIR] [ENV_FILE]      /var/lib/rlm and .env of the checkout if left out
#
# RLM_UID is who the API and the store run as (10001). DIR must be on a file system with owners, modes and hard links.
set -eu
cd "$(dirname "$0")/../.."
env_file="${2:-.env}"
uid="${RLM_UID:-10001}"

fail() {
    echo "prepare: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, for owners and a mount; found uid $(id -u)"
case "$uid" in
    '' | 0* | *[!0-9]*) fail "RLM_UID must be the number of a uid that is not root, found '$uid'" ;;
esac
mkdir -p "${1:-/var/lib/rlm}"
directory="$(realpath "${1:-/var/lib/rlm}")" # a container has no links of the machine's

# NAME MODE OWNER, in a directory that root alone may change.
make_directory() {
    mkdir -p "$directory/$1"
    chown "$3:$3" "$directory/$1"
    chmod "$2" "$directory/$1"
}

# NAME MODE, in a directory of the service's. By the service's uid: as root, a link that stands there would be followed.
make_inner_directory() {
    as_service mkdir -p "$directory/$1"
    as_service chmod "$2" "$directory/$1"
}

make_secret() {
    [ ! -e "$directory/secrets/$1" ] || return 0
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' | as_service sh -c 'umask 077 && cat >"$1.new" && mv "$1.new" "$1"' sh "$directory/secrets/$1"
}

as_service() {
    setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
}

make_directory . 711 0
make_directory data 711 "$uid"
make_inner_directory data/sessions 711
make_directory store 700 "$uid"
make_directory run 711 0
make_directory run/store 700 "$uid"
make_directory run/launcher 711 0
make_directory secrets 700 "$uid"
make_inner_directory secrets/variables 700
make_directory config 755 0
make_directory stage 700 0
make_secret pepper
make_secret vault-key

# What the launcher mounts in its container has to appear here, where the engine looks. With systemd it does already.
case "$(findmnt --noheadings --output PROPAGATION --target "$directory/stage")" in
    *shared*) ;;
    *)
        mount --bind "$directory/stage" "$directory/stage"
        mount --make-shared "$directory/stage"
        ;;
esac

if [ ! -e "$env_file" ]; then
    runtime=runc
    if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"runsc"'; then
        runtime=runsc
    fi
    cat >"$env_file" <<END
# Of docker-compose.yml; docs/deployment.md has the whole list. No secrets here: they stand in
# $directory/secrets, those that would be variables as files in $directory/secrets/variables.
RLM_HOST_DIR=$directory
RLM_UID=$uid
RLM_PUBLISH=127.0.0.1:8000
# runsc (gVisor) for tenants who do not trust each other; runc serves one tenant, or those who do (RLM_TRUST_RUNC=1).
RLM_DOCKER_RUNTIME=$runtime
END
fi
echo "prepared $directory for uid $uid; settings stand in $env_file"
