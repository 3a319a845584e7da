#!/bin/sh
# Writes requirements/*.txt anew from requirements/*.in: every version pinned, every file's hash listed.
# usage: scripts/lock.sh UV [--upgrade]      (UV: path of the resolver; `make lock` installs it)
set -eu
cd "$(dirname "$0")/../requirements"
uv=$1
shift
compile() {
    name=$1
    shift
    echo "lock  requirements/$name.txt"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-annotate --only-binary :all: --custom-compile-command 'make lock' "$@" -o "$name.txt" "$name.in"
}
compile build "$@"
compile runtime "$@"
compile demo --no-deps "$@"
compile sandbox "$@"
compile test "$@"
compile bench "$@"
