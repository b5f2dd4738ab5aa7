# Sourced by demo.sh and test.sh: an environment in .venv (or $VENV) with the requirements files
# given as arguments, made once and brought up to date when those files change.

venv="${VENV:-.venv}"
python3="${PYTHON:-python3}"
if ! "$python3" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: Python 3.10 or newer is needed, and '$python3' is not; set PYTHON=/path/to/python3" >&2
    exit 2
fi
if [ ! -x "$venv/bin/pip" ] && ! "$python3" -m venv "$venv"; then
    echo "error: '$python3 -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
fi
installed="$(cat "$@")"
if [ "$installed" != "$(cat "$venv/installed.txt" 2>/dev/null)" ]; then
    echo "installing $* into $venv (PyTorch is large: this can take some minutes)"
    files=()
    for file in "$@"; do files+=(-r "$file"); done
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${files[@]}"
    echo "$installed" >"$venv/installed.txt"
fi
. "$venv/bin/activate"
