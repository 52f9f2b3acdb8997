#!/bin/sh
# Build the image that Docker sandboxes are started from, with a base from the registry or, where none answers, one made
# here. Idempotent; without changes it takes a second.
#
#     sh deploy/make_sandbox_image.sh [NAME:TAG] [minimal|full] [PACKAGE...]
#
# NAME:TAG is rlm-sandbox if left out, minimal the target. PACKAGEs are what you want beside those of `full`.
# BASE_IMAGE names another base; DOCKER_HOST another engine; CA_FILE certificates that pip has to trust.
set -eu
cd "$(dirname "$0")/.."
image="${1:-rlm-sandbox}"
target="${2:-minimal}"
[ $# -le 2 ] && set -- || shift 2
case "$target" in
    minimal | full) ;;
    *)
        echo "make_sandbox_image: expected minimal or full, found $target" >&2
        exit 1
        ;;
esac
BASE_OF_REGISTRY=python:3.12-slim-bookworm
BASE_MADE_HERE=rlm-sandbox-base:local

has_image() {
    docker image inspect "$1" >/dev/null 2>&1
}

base="${BASE_IMAGE:-}"
if [ -z "$base" ]; then
    if has_image "$BASE_MADE_HERE"; then
        base="$BASE_MADE_HERE"
    elif has_image "$BASE_OF_REGISTRY" || timeout 120 docker pull --quiet "$BASE_OF_REGISTRY" >/dev/null 2>&1; then
        base="$BASE_OF_REGISTRY"
    else
        echo "make_sandbox_image: no registry answers; making a base image here" >&2
        sh deploy/make_base_image.sh "$BASE_MADE_HERE" ${CA_FILE:+--ca "$CA_FILE"} >&2
        base="$BASE_MADE_HERE"
    fi
fi
network=none
[ "$target" = minimal ] || network=host # for pip
docker build --quiet --file Dockerfile.sandbox --target "$target" --network "$network" \
    --build-arg "BASE_IMAGE=$base" --build-arg "PACKAGES=$*" --tag "$image" .
