#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# make_venv.sh PYTHON FOLDER: a fresh virtual environment with pip, also where Debian's
# python3 comes without the parts that make one.
set -eu
python=$1
folder=$2

say() { echo "$*" >&2; }
fail() { say "$*"; exit 1; }

newer() {
    for name in python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "; found here: make ... PYTHON=$name"
            return
        fi
    done
    echo "; name another with make ... PYTHON=/path/to/python3"
}

command -v "$python" >/dev/null 2>&1 || fail "ssdag needs Python 3.11 or newer: '$python' not found$(newer)"
"$python" -c '' >/dev/null 2>&1 || fail "'$python' cannot be run$(newer)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "ssdag needs Python 3.11 or newer, '$python' is $("$python" -c 'import platform; print(platform.python_version())')$(newer)"

# The interpreter behind it, in case $python is the environment that is about to go.
python="$("$python" -c 'import sys; print(sys._base_executable)')"

rm -rf "$folder"
if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    exec "$python" -m venv "$folder"
fi

# Debian and Ubuntu keep ensurepip in a package of its own.
package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "'$python' has no ensurepip: installing $package with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$package"; } \
        </dev/null >/dev/null || say "apt-get could not install $package"
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        exec "$python" -m venv "$folder"
    fi
fi
# A pip outside can fill an environment that has none.
if "$python" -c 'import venv' 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --without-pip "$folder"
    "$python" -m pip --quiet --disable-pip-version-check --no-input --python "$folder/bin/python" install pip && exit 0
    rm -rf "$folder"
fi
fail "'$python' cannot make virtual environments (no ensurepip). Install it first: apt-get install $package"
