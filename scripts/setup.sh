#!/bin/sh
# Installs what building and testing need, and only what is missing. Needs root or sudo only where something is.
# With the argument `runtime`: only the servers that `ptctl demo` starts.
set -eu

purpose=${1:-all}

missing=""
need() { missing="$missing $1"; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

has_postgresql() {
    for server in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres; do
        [ -x "$server" ] && return 0
    done
    has postgres
}

has_python() {
    python=/usr/bin/python3
    [ -x $python ] || python=python3
    $python -c "import $1" >/dev/null 2>&1
}

# The compiler alone is not enough: some distributions package the files that it imports from separately.
has_protoc() {
    has "${PROTOC:-protoc}" || return 1
    probe=$(mktemp -d)
    printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' >"$probe/probe.proto"
    found=0
    "${PROTOC:-protoc}" --proto_path="$probe" --descriptor_set_out=/dev/null probe.proto >/dev/null 2>&1 || found=1
    rm -r "$probe"
    return $found
}

find_missing() {
    missing=""
    has_postgresql || need postgresql
    has etcd || need etcd
    has haproxy || need haproxy
    if [ "$purpose" = runtime ]; then
        return
    fi
    has etcdctl || need etcdctl
    has_protoc || need protoc
    has curl || need curl
    has cc || need cc
    has_python yaml || need python-yaml
    has_python ensurepip || need python-venv
    # Only `make bench` needs it, and Red Hat's distributions have no package of it.
    has wrk || ! has apt-get || need wrk
}

debian_package() {
    case $1 in
    postgresql) echo postgresql ;;
    etcd) echo etcd-server ;;
    etcdctl) echo etcd-client ;;
    protoc) echo protobuf-compiler libprotobuf-dev ;;
    cc) echo gcc libc6-dev ;;
    python-yaml) echo python3-yaml ;;
    python-venv) echo python3-venv ;;
    *) echo "$1" ;;
    esac
}

redhat_package() {
    case $1 in
    postgresql) echo postgresql-server postgresql-contrib ;;
    etcd | etcdctl) echo etcd ;;
    protoc) echo protobuf-compiler protobuf-devel ;;
    cc) echo gcc ;;
    python-yaml) echo python3-pyyaml ;;
    python-venv) echo python3-pip ;;
    *) echo "$1" ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        echo "setup: neither root nor sudo; run this as root: $*" >&2
        exit 1
    fi
}

# Tests start their own servers. A service that the packages started just now would only be in the way;
# one that ran before is somebody's and stays as it is.
stop_new_services() {
    for tool in $missing; do
        case $tool in
        postgresql | etcd | haproxy) ;;
        *) continue ;;
        esac
        if [ -d /run/systemd/system ]; then
            as_root systemctl disable --now "$tool" || true
        elif [ -x "/etc/init.d/$tool" ]; then
            as_root "/etc/init.d/$tool" stop || true
        fi
    done
}

install_missing() {
    packages=""
    if has apt-get; then
        for tool in $missing; do packages="$packages $(debian_package "$tool")"; done
        echo "setup: installing$packages"
        as_root apt-get update -qq
        # shellcheck disable=SC2086 # a list of packages
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
    elif has dnf; then
        for tool in $missing; do packages="$packages $(redhat_package "$tool")"; done
        echo "setup: installing$packages"
        # shellcheck disable=SC2086 # a list of packages
        as_root dnf install -y -q $packages
    else
        echo "setup: please install these and try again:$missing" >&2
        exit 1
    fi
    stop_new_services
}

check_rust() {
    if ! has cargo; then
        echo "setup: cargo is missing; install Rust from https://rustup.rs and try again" >&2
        exit 1
    fi
    cd "$(dirname "$0")/.."
    if cargo --version >/dev/null 2>&1; then
        return
    fi
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    echo "setup: installing Rust $wanted"
    rustup toolchain install "$wanted" --profile minimal --component rustfmt --component clippy
}

find_missing
if [ -n "$missing" ]; then
    install_missing
    find_missing
    if [ -n "$missing" ]; then
        echo "setup: still missing:$missing" >&2
        exit 1
    fi
fi
if [ "$purpose" != runtime ]; then
    check_rust
fi
