#!/bin/sh
# A Docker engine for tests and trials, beside any other that the machine has: own data, own socket, a bridge of its own
# that leads nowhere, with gVisor as the runtime `runsc`. Needs root.
#
#     sh deploy/docker_engine.sh start [DIR]    prints the engine's URL, for RLM_DOCKER_HOST and DOCKER_HOST
#     sh deploy/docker_engine.sh stop [DIR]     ends it; DIR keeps its images for the next time
#
# DIR is .cache/engine of the checkout if left out. Idempotent. What is missing is installed on Debian and its kin
# (docker.io from the distribution; gVisor from Debian's backports, unpacked into DIR and nowhere else).
set -eu
cd "$(dirname "$0")/.."
action="${1:-}"
directory="${2:-$PWD/.cache/engine}"
socket="$directory/docker.sock"
url="unix://$socket"
# Its own: an engine that is told to have no bridge takes docker0 away from the machine's other engine.
bridge="rlm$(printf %s "$directory" | cksum | cut -d ' ' -f 1)"
BRIDGE_ADDRESS=169.254.213.1/24
READY_WITHIN_S=60
STOP_WITHIN_S=60

fail() {
    echo "docker_engine: $1" >&2
    exit 1
}

answers() {
    curl --silent --fail --max-time 2 --unix-socket "$socket" http://docker/_ping >/dev/null 2>&1 ||
        DOCKER_HOST="$url" docker version >/dev/null 2>&1
}

has_bridge() {
    ip link show dev "$bridge" >/dev/null 2>&1
}

provide_docker() {
    command -v dockerd >/dev/null && command -v docker >/dev/null && command -v ip >/dev/null && return 0
    command -v apt-get >/dev/null || fail "dockerd or ip is missing: install Docker and iproute2 (there is no apt-get)"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker.io iptables iproute2 >&2
}

# Debian's own runsc of 2022 cannot do what we need of its unix sockets, so a newer one is taken from the backports.
provide_gvisor() {
    [ -x "$directory/gvisor/usr/bin/runsc" ] && return 0
    command -v apt-get >/dev/null || return 1
    codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
    mirror="$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $codename" | head -n 1)"
    [ -n "$mirror" ] || return 1
    lists="$(mktemp -d)"
    mkdir -p "$lists/state/partial" "$directory/gvisor"
    chmod 755 "$lists"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $mirror $codename-backports main" >"$lists/sources.list"
    set -- -qq -o Dir::Etc::SourceList="$lists/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$lists/state"
    got=0
    if apt-get "$@" update >&2 && (cd "$lists" && apt-get "$@" -o APT::Sandbox::User=root download runsc >&2); then
        dpkg-deb -x "$lists"/runsc_*.deb "$directory/gvisor" && got=1
    fi
    rm -rf "$lists"
    [ "$got" = 1 ]
}

start() {
    if answers; then
        echo "$url"
        return 0
    fi
    [ "$(id -u)" = 0 ] || fail "starting an engine needs root; found uid $(id -u)"
    mkdir -p "$directory"
    provide_docker
    runtimes="{}"
    if provide_gvisor; then
        # A sandbox dials out to its host's sockets (--host-uds) and has no network; without --network gVisor refuses
        # to start on some machines.
        runtimes="{\"runsc\": {\"path\": \"$directory/gvisor/usr/bin/runsc\", \"runtimeArgs\": [\"--network=none\", \"--host-uds=all\"]}}"
    else
        echo "docker_engine: no gVisor to be had here; only runc" >&2
    fi
    echo "{\"runtimes\": $runtimes}" >"$directory/daemon.json"
    rm -f "$directory/docker.pid"
    if ! has_bridge; then
        ip link add name "$bridge" type bridge
        ip address add "$BRIDGE_ADDRESS" dev "$bridge" # else the engine takes the one that docker0 has by default
    fi
    setsid dockerd --config-file "$directory/daemon.json" --host "$url" --data-root "$directory/data" \
        --exec-root "$directory/exec" --pidfile "$directory/docker.pid" --bridge="$bridge" \
        --iptables=false --ip-forward=false --ip-masq=false >"$directory/dockerd.log" 2>&1 </dev/null &
    waited=0
    until answers; do
        [ "$waited" -lt "$READY_WITHIN_S" ] || fail "the engine did not come up: $(tail -n 3 "$directory/dockerd.log")"
        sleep 1
        waited=$((waited + 1))
    done
    echo "$url"
}

stop() {
    [ ! -r "$directory/docker.pid" ] || stop_process "$(cat "$directory/docker.pid")"
    ! has_bridge || ip link delete "$bridge"
}

stop_process() {
    is_ours "$1" || return 0
    kill "$1" || return 0
    waited=0
    while is_ours "$1"; do
        if [ "$waited" -ge "$STOP_WITHIN_S" ]; then
            echo "docker_engine: the engine (pid $1) did not end within $STOP_WITHIN_S s and is killed" >&2
            kill -KILL "$1" || true
            return 0
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

# The pid may be somebody else's by now; one that has ended and is not waited for yet has no command line.
is_ours() {
    case "$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || true)" in
        *dockerd*"$directory"*) return 0 ;;
        *) return 1 ;;
    esac
}

case "$action" in
    start) start ;;
    stop) stop ;;
    *) fail "expected start or stop, found '$action'" ;;
esac
