#!/usr/bin/env bash
# Everything the edge crate needs to build and run, all of it pinned.
#
#   edge/toolchain.sh setup            installs what is missing, then checks
#   edge/toolchain.sh check            says what is there, fails if something is missing or of another version
#   edge/toolchain.sh build            builds the Worker into edge/build
#   eval "$(edge/toolchain.sh env)"    the environment of the above, for wrangler and for tests by hand
#
# The Rust tools go into edge/.toolchain, the others into edge/node_modules; neither is committed.
# rustup's std for wasm32 is taken where rustup can have it. Otherwise, on Debian, the distribution's compiler
# and sources are, and its std is built into edge/.toolchain/rust.
set -euo pipefail

WORKER_BUILD=0.8.7          # = the `worker` crate in edge/Cargo.toml
WASM_BINDGEN=0.2.130        # = wasm-bindgen in Cargo.lock, exactly
NODE_MIN=22                 # wrangler asks for it; the npm package `node` brings it
TARGET=wasm32-unknown-unknown

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${EDGE_TOOLS:-$here/.toolchain}
std=$tools/rust
npm_bin=$here/node_modules/.bin
say() { printf '[edge] %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
first() { local c; for c in "$@"; do if have "$c"; then echo "$c"; return; fi; done; }
packages() {
  local need=() p
  for p in "$@"; do dpkg -s "$p" >/dev/null 2>&1 || need+=("$p"); done
  [ ${#need[@]} = 0 ] && return
  say "installing ${need[*]}"
  root apt-get update -qq >&2 && root apt-get install -y -qq --no-install-recommends "${need[@]}" >&2
}

has_std() {
  local libs; libs=$("$1" --print target-libdir --target $TARGET 2>/dev/null) && compgen -G "$libs/libstd-*.rlib" >/dev/null
}

rust_std() {
  if [ -z "${EDGE_FORCE_DISTRO:-}" ]; then
    has_std rustc && return
    if have rustup && timeout 300 rustup target add $TARGET >&2 && has_std rustc; then return; fi
  fi
  if [ -x "$std/bin/rustc" ] && has_std "$std/bin/rustc"; then return; fi
  say "rustup has no std for $TARGET: building it from the distribution's sources"
  packages rustc-web cargo-web rust-web-src lld-19
  local work host
  work=$(mktemp -d); host=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
  mkdir -p "$work/src"; echo '#![no_std]' > "$work/src/lib.rs"
  printf '[package]\nname="seed"\nversion="0.0.0"\nedition="2021"\n[workspace]\n' > "$work/Cargo.toml"
  # Without bitcode in it, the Worker's `lto = "fat"` fails.
  ( cd "$work" && env -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
      RUSTFLAGS="-Cembed-bitcode=yes" CARGO_TARGET_DIR="$work/target" \
      /usr/bin/cargo build -q --release --target $TARGET -Z build-std=std,panic_abort >&2 )
  rm -rf "$std"; mkdir -p "$std/bin" "$std/lib/rustlib/$TARGET/lib" "$std/lib/rustlib/$host/bin"
  cp "$work/target/$TARGET"/release/deps/*.rlib "$std/lib/rustlib/$TARGET/lib/"
  rm -f "$std/lib/rustlib/$TARGET"/lib/libseed-*
  ln -s "/usr/lib/rustlib/$host/lib" "$std/lib/rustlib/$host/lib"
  ln -s "$(command -v lld-19)" "$std/lib/rustlib/$host/bin/rust-lld"
  ln -s /usr/lib/rustlib/src "$std/lib/rustlib/src"
  printf '#!/bin/sh\nexec /usr/bin/rustc --sysroot "%s" "$@"\n' "$std" > "$std/bin/rustc"
  printf '#!/bin/sh\nRUSTC="%s" exec /usr/bin/cargo "$@"\n' "$std/bin/rustc" > "$std/bin/cargo"
  chmod +x "$std/bin/rustc" "$std/bin/cargo"; rm -rf "$work"
}

version_of() { "$1" --version 2>/dev/null | grep -o '[0-9][0-9.]*' | head -1 || true; }

cargo_tool() { # crate version, installed as a binary of the crate's name without -cli
  local bin=${1%-cli}
  [ "$(version_of "$tools/bin/$bin")" = "$2" ] && return
  say "building $1 $2 (some minutes)"
  # These run on this machine, once a build: they may be slow, their compilation may not.
  local install=(install -q --root "$tools" "$1" --version "$2" --bin "$bin" --force)
  ( mkdir -p "$tools"; cd "$tools"
    export CARGO_TARGET_DIR=$tools/target CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 \
      CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    # A registry mirror may lack a version that the crate's own lock file names.
    env -u RUSTFLAGS -u RUSTC cargo "${install[@]}" --locked ||
      env -u RUSTFLAGS -u RUSTC cargo "${install[@]}" ) >&2
}

node_side() {
  local stamp=$here/node_modules/.edge-stamp
  cmp -s "$here/package.json" "$stamp" && return
  say "installing node, wrangler, miniflare, esbuild, binaryen"
  # A lock file made where a registry has more platforms than here makes `npm ci` refuse.
  ( cd "$here" && { npm ci --no-audit --no-fund --silent >&2 || npm install --no-save --no-audit --no-fund --silent >&2; } )
  cp "$here/package.json" "$stamp"
}

environment() {
  local path=$npm_bin:$tools/bin
  if ! has_std rustc && [ -x "$std/bin/rustc" ]; then
    path=$std/bin:$path; echo "unset RUSTC RUSTUP_TOOLCHAIN"
  fi
  echo "export PATH='$path':\"\$PATH\""
  # worker-build would download these.
  echo "export WASM_BINDGEN_BIN='$tools/bin/wasm-bindgen' WASM_OPT_BIN='$npm_bin/wasm-opt' ESBUILD_BIN='$npm_bin/esbuild'"
  # No telemetry, no questions, no look-ups.
  echo "export CI=1 WRANGLER_SEND_METRICS=false WRANGLER_SEND_ERROR_REPORTS=false CLOUDFLARE_CF_FETCH_ENABLED=false"
  local cc; cc=$(first clang clang-19 clang-16 clang-14)
  # Products in 64 bits make libsecp256k1 four times as fast as its default on wasm32; its small sysroot lacks memmove.
  [ -n "$cc" ] && echo "export CC_wasm32_unknown_unknown=$cc AR_wasm32_unknown_unknown=$(first llvm-ar llvm-ar-19 llvm-ar-16 llvm-ar-14) \
CFLAGS_wasm32_unknown_unknown='-Wno-error=implicit-function-declaration -DUSE_FORCE_WIDEMUL_INT64=1'"
  echo "export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='-Ctarget-feature=+simd128' CARGO_TARGET_DIR='$(dirname "$here")/target/edge'"
}

check() {
  eval "$(environment)"
  local bad=0
  expect() { if [ "$2" = "$3" ]; then say "$1 $2"; else say "$1 is «$2», not $3"; bad=1; fi; }
  pinned() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$here/package.json"; }
  if has_std rustc; then say "$(rustc --version), std for $TARGET"; else say "no std for $TARGET"; bad=1; fi
  expect wasm-bindgen "$(version_of wasm-bindgen)" $WASM_BINDGEN
  expect worker-build "$(version_of worker-build)" $WORKER_BUILD
  expect node "$(version_of node)" "$(pinned node)"
  expect esbuild "$(version_of esbuild)" "$(pinned esbuild)"
  expect wasm-opt "$(version_of wasm-opt).0.0" "$(pinned binaryen)"
  expect wrangler "$(sed -n 's/^ *"version": "\(.*\)",/\1/p' "$here/node_modules/wrangler/package.json")" "$(pinned wrangler)"
  expect miniflare "$(sed -n 's/^ *"version": "\(.*\)",/\1/p' "$here/node_modules/miniflare/package.json")" "$(pinned miniflare)"
  [ -n "${CC_wasm32_unknown_unknown:-}" ] || { say "no clang: a C compiler for $TARGET is needed"; bad=1; }
  return $bad
}

case "${1:-}" in
  setup)
    mkdir -p "$tools/bin"
    rust_std
    [ -n "$(first clang clang-19 clang-16 clang-14)" ] || packages clang llvm
    [ "$(version_of "$tools/bin/worker-build")" = $WORKER_BUILD ] || packages libssl-dev pkg-config
    cargo_tool wasm-bindgen-cli $WASM_BINDGEN
    cargo_tool worker-build $WORKER_BUILD
    rm -rf "$tools/target"
    node_side
    check ;;
  check) check ;;
  env) environment ;;
  build)
    eval "$(environment)"
    cd "$here"
    # The rest takes half a minute, and is left out when what it would be made of is what it was.
    cargo build --quiet --locked --profile edge --target $TARGET --lib >&2
    made=$(cksum "$CARGO_TARGET_DIR/$TARGET/edge/relay_edge.wasm" toolchain.sh package.json)
    [ -f build/index_bg.wasm ] && [ "$(cat build/.made 2>/dev/null)" = "$made" ] && exit
    worker-build --profile edge "${@:2}" >&2
    echo "$made" > build/.made
    say "edge/build: $(stat -c %s build/index_bg.wasm) bytes of wasm, $(gzip -c build/index_bg.wasm | wc -c) as gzip" ;;
  *) sed -n '2,8p' "$0"; exit 2 ;;
esac
