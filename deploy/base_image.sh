#!/bin/sh
# Print the image that ours are built from, and provide it: BASE_IMAGE if that is set, else one made here earlier, else
# the registry's by its digest or, where no registry answers, one made here now.
#
# DOCKER_HOST names another engine; CA_FILE certificates that pip has to trust in a base that is made here.
set -eu
cd "$(dirname "$0")/.."
BASE_OF_REGISTRY=python:3.12-slim-bookworm
BASE_MADE_HERE=rlm-sandbox-base:local

has_image() {
    docker image inspect "$1" >/dev/null 2>&1
}

if [ -n "${BASE_IMAGE:-}" ]; then
    echo "$BASE_IMAGE"
elif has_image "$BASE_MADE_HERE"; then
    echo "$BASE_MADE_HERE"
elif has_image "$BASE_OF_REGISTRY" || timeout 120 docker pull --quiet "$BASE_OF_REGISTRY" >/dev/null 2>&1; then
    docker image inspect --format '{{index .RepoDigests 0}}' "$BASE_OF_REGISTRY" 2>/dev/null || echo "$BASE_OF_REGISTRY"
else
    echo "base_image: no registry answers; making a base image here" >&2
    sh deploy/make_base_image.sh "$BASE_MADE_HERE" ${CA_FILE:+--ca "$CA_FILE"} >&2
    echo "$BASE_MADE_HERE"
fi
