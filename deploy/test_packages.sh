#!/usr/bin/env bash
# Makes system programs that tests and benchmarks start available: deploy/test_packages.sh nginx postgres ...
#
# Installs what is missing where it may: on the Debian family, as root or with a sudo that asks nothing. Services that
# come with a package are neither started nor enabled. What stays missing is told to the tests, which leave out what
# needs it and say so: standard output is shell code that exports UNDERSTUDY_TEST_WITHOUT (names with commas) and
# UNDERSTUDY_TEST_WITHOUT_REASON. Names already in UNDERSTUDY_TEST_WITHOUT are left alone.
set -u
export PATH="$PATH:/usr/sbin:/sbin"
without=${UNDERSTUDY_TEST_WITHOUT:-}
reason=${without:+UNDERSTUDY_TEST_WITHOUT asked for it}

say() { echo "$*" >&2; }
listed() { case ",$without," in *",$1,"*) return 0 ;; esac; return 1; }

present() {
    case $1 in
        postgres) command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
        prometheus) command -v prometheus >/dev/null && command -v promtool >/dev/null ;;
        alertmanager) command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

package_of() {
    case $1 in
        postgres) echo postgresql ;;
        alertmanager) echo prometheus-alertmanager ;;
        nginx | prometheus | valgrind | wrk) echo "$1" ;;
        *) say "test_packages.sh: $1 is not one of postgres, nginx, prometheus, alertmanager, valgrind, wrk"; exit 2 ;;
    esac
}

# A policy that forbids starting services while packages are unpacked; only ours is removed afterwards.
policy=/usr/sbin/policy-rc.d
forbid_services() { [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null && $as_root chmod 755 $policy && made_policy=1; }; }
allow_services() { [ -z "${made_policy:-}" ] || { $as_root rm -f $policy; made_policy=; }; }

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}

install_packages() {
    say "installing $* with apt-get ..."
    trap allow_services EXIT INT TERM
    forbid_services
    log=$(mktemp)
    apt update
    if ! apt install --no-install-recommends "$@"; then # one that is not to be had must not keep the others out
        for package in "$@"; do apt install --no-install-recommends "$package"; done
        failure="apt-get failed: $(grep -E '^(E|Err):' "$log" | tail -1 | sed -E 's#https?://[^ ]*##g')"
    fi
    rm -f "$log"
    allow_services
    if [ -d /run/systemd/system ]; then $as_root systemctl disable -q "$@" 2>/dev/null; fi
}

names=() packages=()
for name in "$@"; do
    if present "$name" || listed "$name"; then continue; fi
    package=$(package_of "$name") || exit 2
    names+=("$name") packages+=("$package")
done

if [ ${#names[@]} -gt 0 ]; then
    failure=
    if ! command -v apt-get >/dev/null; then
        failure="not of the Debian family: install it yourself"
    elif [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        failure="neither root nor password-less sudo: run \`sudo apt-get install ${packages[*]}\` yourself"
    fi
    [ -n "$failure" ] || install_packages "${packages[@]}"
    for name in "${names[@]}"; do
        present "$name" && continue
        failure=${failure:-its package did not bring it}
        say "without $name: $failure"
        without=${without:+$without,}$name
    done
    reason=${reason:+$reason; }$failure
fi
printf 'export UNDERSTUDY_TEST_WITHOUT=%q UNDERSTUDY_TEST_WITHOUT_REASON=%q\n' "$without" "$reason"
