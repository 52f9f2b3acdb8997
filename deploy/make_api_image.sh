#!/bin/sh
# Build the image of the service's own processes (Dockerfile.api), with a base from the registry or, where none answers,
# one made here. Idempotent; without changes it takes a second.
#
#     sh deploy/make_api_image.sh [NAME:TAG]        rlm-service if left out
#
# BASE_IMAGE names another base, DOCKER_HOST another engine. With WHEELS=DIR the packages come out of DIR, and the build
# uses no network:
#
#     python deploy/fetch_wheels.py --base BASE_IMAGE --list deploy/requirements-image.txt --out DIR
set -eu
cd "$(dirname "$0")/.."
image="${1:-rlm-service}"
base="$(sh deploy/base_image.sh)"
network=none
[ -n "${WHEELS:-}" ] || network=host # for pip
context="$(sh deploy/build_context.sh Dockerfile.api LICENSE README.md deploy pyproject.toml sandbox_image service)"
trap 'rm -rf "$context"' EXIT
trap 'exit 130' INT TERM
docker build --quiet --file "$context/Dockerfile.api" --network "$network" --label "rlm.image.base=$base" \
    --build-arg "BASE_IMAGE=$base" --tag "$image" "$context"
