# Sourced by the other scripts, which then call "$python": $PYTHON if that is set; else the one of
# the activated environment; else that of the environment that demo.sh and test.sh make; else the
# system's, which some systems call python3 only.

for python in "${VIRTUAL_ENV:-/none}/bin/python" \
    "${VENV:-$(dirname "${BASH_SOURCE[0]}")/../.venv}/bin/python" python3 python; do
    command -v "$python" >/dev/null && break
done
python="${PYTHON:-$python}"
