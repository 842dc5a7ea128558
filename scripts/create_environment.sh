#!/usr/bin/env bash
# Usage: create_environment.sh VENV [PYTHON]
# Installs frtrain, editable and with its development tools, into the virtual environment VENV. Without PYTHON the newest
# interpreter that can make one is taken. An environment whose installation was interrupted is made again from nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
wanted=${2:-}
unfinished=$venv/.unfinished

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
makes_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local candidate too_bare=""
    for candidate in ${wanted:-python3.14 python3.13 python3.12 python3.11 python3.10 python3 python}; do
        fits "$candidate" || continue
        makes_environments "$candidate" && { echo "$candidate"; return; }
        too_bare=${too_bare:-$candidate}
    done
    if [ -n "$too_bare" ]; then
        echo "error: $too_bare cannot make virtual environments: its venv or ensurepip module is missing." >&2
        echo "       On Debian and Ubuntu: sudo apt install $("$too_bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2
    else
        echo "error: frtrain needs Python 3.10 or newer; tried: ${wanted:-python3.14 ... python3.10, python3, python}." >&2
        echo "       Install one, or name it: make install PYTHON=/path/to/python3" >&2
    fi
    return 1
}

if [ -e "$unfinished" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    rm -rf "$venv"
    mkdir -p "$venv"
    touch "$unfinished"
    "$python" -m venv "$venv"
fi
touch "$unfinished"
echo "installing frtrain and torch into $venv with $("$venv/bin/python" --version): about two minutes and 6 GB" >&2
"$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'
rm "$unfinished"
