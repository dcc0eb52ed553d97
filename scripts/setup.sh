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
    has dnsmasq || need dnsmasq
    has openssl || need openssl
    # Red Hat's distributions have no package of it, and Debian has none any more: see install_from.
    has consul || ! has apt-get || need consul
    # Beside the etcd of this release a newer one.
    has etcd-3.5 || ! has apt-get || need etcd-3.5
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
    dnsmasq) echo dnsmasq-base ;;
    etcd-3.5) ;;
    consul) ! apt-cache policy consul 2>/dev/null | grep -q 'Candidate: [0-9]' || echo consul ;;
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

# One program out of a package of another release of Debian, which runs anywhere. Taken from the mirror that this machine uses,
# without making that release one of its sources.
install_from() {
    release=$1 package=$2 program=$3 target=$4
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' 'Label: Debian' |
        sed -n 's/ Debian$//p' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "setup: please install ${target##*/} and try again" >&2
        exit 1
    fi
    echo "setup: installing ${target##*/}"
    place=$(mktemp -d)
    chmod 755 "$place"
    mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
    echo "deb ${mirror%/} $release main" >"$place/sources"
    of_release() {
        apt-get -qq -o Dir::Etc::SourceList="$place/sources" -o Dir::Etc::SourceParts=- \
            -o Dir::State::Lists="$place/lists" -o Dir::Cache="$place/cache" -o APT::Sandbox::User=root "$@"
    }
    of_release update
    (cd "$place" && of_release download "$package")
    dpkg -x "$place/${package}"_*.deb "$place/unpacked"
    as_root install -m 755 "$place/unpacked/$program" "$target"
    rm -rf "$place"
}

install_missing() {
    packages=""
    if has apt-get; then
        for tool in $missing; do
            package=$(debian_package "$tool")
            packages="$packages${package:+ $package}"
        done
        # Also for what has no package here: without lists it is not known which mirror is Debian's.
        as_root apt-get update -qq
        if [ -n "$packages" ]; then
            echo "setup: installing$packages"
            # shellcheck disable=SC2086 # a list of packages
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
        fi
        for tool in $missing; do
            case $tool in
            # The last release that had it still has it.
            consul) has consul || install_from bullseye consul usr/bin/consul /usr/local/bin/consul ;;
            etcd-3.5) install_from trixie etcd-server usr/bin/etcd /usr/local/bin/etcd-3.5 ;;
            esac
        done
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
