#!/bin/sh
# Installs the sensor from this directory, without any network: everything it needs besides Python 3.11 or newer is in wheels/.
#
#   ./install.sh                     to /opt/harborguard-sensor, with the systemd units and an example of the configuration
#   PREFIX=/srv/sensor ./install.sh  to another place, and nothing else; run it as any user
#   PYTHON=python3.13 ./install.sh   with another interpreter
#
# An installation that is there is replaced; configuration and state are left alone.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
fail() { echo "install: $*" >&2; exit 1; }

sha256sum --check --quiet --strict SHA256SUMS || fail "files are damaged or missing; copy the archive again"
command -v "$python" >/dev/null || fail "there is no $python; install Python 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; name 3.11 or newer: PYTHON=python3.13 ./install.sh"
machine=$("$python" -c 'import sys, sysconfig; print(sysconfig.get_platform().rpartition("-")[2], "%d.%d" % sys.version_info[:2])')
grep -qx "$machine" PLATFORMS || fail "these wheels are not for $machine (machine, Python), but for: $(tr '\n' ',' <PLATFORMS)"
if [ -z "${PREFIX:-}" ]; then
    [ "$(id -u)" = 0 ] || fail "needs root to write to /opt; or name a place of yours: PREFIX=\$HOME/harborguard-sensor ./install.sh"
fi
prefix=${PREFIX:-/opt/harborguard-sensor}

# what runs now goes on until it is restarted: the old tree is moved away, not overwritten
[ ! -e "$prefix" ] || [ -e "$prefix/pyvenv.cfg" ] || fail "$prefix is there and is no installation of the sensor"
rm -rf "$prefix.old"
[ ! -e "$prefix" ] || mv "$prefix" "$prefix.old"
undo() { rm -rf "$prefix"; [ ! -e "$prefix.old" ] || mv "$prefix.old" "$prefix"; }
trap undo EXIT
# pip comes along, because Debian's python3 has none
"$python" -m venv --without-pip "$prefix"
pip() { PYTHONPATH=$(echo wheels/pip-*.whl) "$prefix/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }
pip install --quiet --no-index --find-links wheels --require-hashes --requirement requirements.lock
pip install --quiet --no-index --no-deps wheels/harborguard_sensor-*.whl
"$prefix/bin/harborguard-sensor" --version
trap - EXIT
rm -rf "$prefix.old"
[ -z "${PREFIX:-}" ] || exit 0

mkdir -p /etc/harborguard-sensor
[ -e /etc/harborguard-sensor/config.yaml ] || echo "install: write /etc/harborguard-sensor/config.yaml; config.example.yaml there explains every key"
cp config.example.yaml /etc/harborguard-sensor/config.example.yaml
if [ -d /etc/systemd/system ]; then
    cp systemd/*.service /etc/systemd/system/
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    echo "install: then systemctl enable --now harborguard-sensor (docs/deploy.md)"
fi
