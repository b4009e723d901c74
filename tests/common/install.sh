# Sourced, from the repository's root, by whatever needs servers, a virtual environment or a test runner.
# Each function installs what is missing, prints what it does, and is quick when nothing is missing.

say() { printf '== %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Installs Debian packages without letting any of them start its service: the tests run private
# servers on free ports, and a machine's own servers are none of their business.
install_packages() {
    [ "$(id -u)" = 0 ] || die "root is needed to install: $*"
    command -v apt-get >/dev/null || die "apt-get is needed to install: $*"
    say "installing $*"
    local policy=/usr/sbin/policy-rc.d made=no status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    {
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" ||
            { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }
    } >target/apt.log 2>&1 || status=$?
    [ $made = no ] || rm -f "$policy"
    [ $status = 0 ] || { tail -n 20 target/apt.log >&2; die "apt-get could not install: $*"; }
}

# need_servers: RabbitMQ and Redis as Debian ships them, and what TLS tests need.
need_servers() {
    local missing=()
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v openssl >/dev/null || missing+=(openssl)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# need_haproxy: only for measurements beside another TCP proxy.
need_haproxy() { command -v haproxy >/dev/null || install_packages haproxy; }

# need_rust: the toolchain itself has to be there.
need_rust() {
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || die "a Rust toolchain is needed: https://rustup.rs"
    command -v cc >/dev/null || install_packages gcc libc6-dev
}

# need_nextest: true if there is a cargo-nextest, building it once if need be.
need_nextest() {
    cargo nextest --version >/dev/null 2>&1 && return 0
    say "building cargo-nextest (once)"
    cargo install --locked cargo-nextest >target/nextest-install.log 2>&1
}

# need_venv DIR REQUIREMENTS: a virtual environment that holds exactly these requirements.
need_venv() {
    local dir=$1 requirements=$2 sum stamp
    sum=$(sha256sum "$requirements" | cut -d' ' -f1)
    stamp=$dir/.requirements
    [ -x "$dir/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return 0
    command -v python3 >/dev/null || install_packages python3 python3-venv
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "making $dir"
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >target/pip.log 2>&1 ||
        { tail -n 20 target/pip.log >&2; die "pip could not install $requirements"; }
    printf '%s' "$sum" >"$stamp"
}

# need_trixie: a Debian 13 tree under target/trixie, for RabbitMQ 4.
need_trixie() {
    [ -e target/trixie/.complete ] && return 0
    [ "$(id -u)" = 0 ] || die "root is needed for debootstrap"
    command -v debootstrap >/dev/null || install_packages debootstrap
    say "making target/trixie"
    rm -rf target/trixie
    debootstrap --variant=minbase --include=rabbitmq-server trixie target/trixie >target/debootstrap.log 2>&1 ||
        { tail -n 20 target/debootstrap.log >&2; die "debootstrap failed"; }
    touch target/trixie/.complete
}
