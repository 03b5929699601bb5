#!/usr/bin/env bash
# Builds the guests and puts each beside its source, as NAME/NAME.wasm.
#
#   wasm-samples/build.sh            build, and write toolchain.txt
#   wasm-samples/build.sh --check    build, and compare with what is committed, which must be the
#                                    same byte for byte where the toolchain is the recorded one
#
# The guests are for wasm32-unknown-unknown (components, by the wasip2 crate) and wasm32-wasip1
# (core modules). With a rustup toolchain that has both targets that one is used; else Debian's:
#   apt-get install rustc-web cargo-web rust-web-src lld-19 wasi-libc
#
# The compiler's names for things depend on where the sources lie, so they are built from a copy in
# one place that is the same everywhere.
set -euo pipefail
cd "$(dirname "$0")"
check=${1:-}
here=$PWD
place=/tmp/coracle-wasm-samples
target=$place/target
mkdir -p "$place"
find "$place" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
tar -c --exclude ./target --exclude '*.wasm' . | tar -x -C "$place"
cd "$place"
components="hello-http greeter counter-tcp udp-echo spin memhog toolbox"
modules="batch"

rustup_has() { command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$1"; }
flags="-Cpanic=abort --remap-path-prefix=$PWD=/samples --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
if rustup_has wasm32-unknown-unknown && rustup_has wasm32-wasip1; then
  cargo=cargo; extra=()
  toolchain=$(rustc --version)
elif [ -x /usr/bin/rustc ] && [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
  cargo=/usr/bin/cargo; extra=(-Zbuild-std=std,panic_abort)
  source=$(readlink -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust")
  flags="$flags --remap-path-prefix=$source=/rust -Clinker=wasm-ld-19"
  wasi_lib=$(dirname "$(find /usr/lib -name crt1-command.o -path '*wasm32*' | head -1)")
  toolchain="$(/usr/bin/rustc --version); $(wasm-ld-19 --version)"
else
  echo "no toolchain for wasm guests: rustup target add wasm32-unknown-unknown wasm32-wasip1," >&2
  echo "or apt-get install rustc-web cargo-web rust-web-src lld-19 wasi-libc" >&2
  exit 1
fi

# The host's own program: with the host's own toolchain, whichever it is.
(unset RUSTC RUSTC_BOOTSTRAP; "${CORACLE_HOST_CARGO:-$cargo}" build -q --release --locked -p componentize --target-dir "$target/host")

packages=(); for name in $components; do packages+=(-p "$name"); done
RUSTFLAGS="$flags" "$cargo" build --release --locked --target wasm32-unknown-unknown \
  --target-dir "$target" "${extra[@]}" "${packages[@]}"
p1_flags=$flags
[ -n "${wasi_lib:-}" ] && p1_flags="$flags -Clink-self-contained=no -Clink-arg=-L$wasi_lib -Clink-arg=$wasi_lib/crt1-command.o"
packages=(); for name in $modules; do packages+=(-p "$name"); done
RUSTFLAGS="$p1_flags" "$cargo" build --release --locked --target wasm32-wasip1 \
  --target-dir "$target" "${extra[@]}" "${packages[@]}"

out=$target/samples; rm -rf "$out"; mkdir -p "$out"
for name in $components; do
  "$target/host/release/componentize" "$target/wasm32-unknown-unknown/release/${name//-/_}.wasm" "$out/$name.wasm"
done
for name in $modules; do cp "$target/wasm32-wasip1/release/$name.wasm" "$out/$name.wasm"; done

if [ "$check" = --check ]; then
  if [ "$toolchain" != "$(cat toolchain.txt)" ]; then
    echo "built, but not compared: committed with $(cat toolchain.txt), this is $toolchain"
    exit 0
  fi
  failed=0
  for name in $components $modules; do
    cmp "$out/$name.wasm" "$here/$name/$name.wasm" || failed=1
  done
  [ $failed = 0 ] && echo "the same as committed"
  exit $failed
fi
for name in $components $modules; do cp "$out/$name.wasm" "$here/$name/$name.wasm"; done
echo "$toolchain" > "$here/toolchain.txt"
ls -l "$here"/*/*.wasm
