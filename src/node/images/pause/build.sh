#!/bin/sh
# Assembles the built-in pause program and writes it as base64 into src/workers/image/pause-program.ts.
#   build.sh            both architectures, into the repository (needs binutils and binutils-aarch64-linux-gnu)
#   build.sh ARCH OUT   one of them (x86_64, aarch64) into the file OUT
# The same binutils give the same bytes; test/unit/pause.test.ts compares.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

build() { # arch, output
  as=as ld=ld
  if [ "$(uname -m)" != "$1" ]; then as=$1-linux-gnu-as ld=$1-linux-gnu-ld; fi
  work=$(mktemp -d)
  # One loadable segment, no alignment to pages in the file, no build id, no symbols: a few hundred bytes.
  "$as" -o "$work/pause.o" "$here/pause-$1.S" &&
    "$ld" -n -s -z noseparate-code -z noexecstack --build-id=none -o "$2" "$work/pause.o"
  status=$?
  rm -r "$work"
  return $status
}

if [ $# -eq 2 ]; then
  build "$1" "$2"
  exit
fi

out=$(mktemp -d)
build x86_64 "$out/x64"
build aarch64 "$out/arm64"
{
  echo "/** Made by src/node/images/pause/build.sh from the assembly beside it; the worker's part, since workers read nothing of main. */"
  echo "const PROGRAMS: Record<string, string> = {"
  for arch in x64 arm64; do echo "  $arch: '$(base64 -w 0 "$out/$arch")',"; done
  echo "};"
  cat <<'TS'

/** The built-in pause program for one of Node's architecture names, an ELF file. Throws when there is none. */
export function pauseProgram(arch: string): Buffer {
  const program = PROGRAMS[arch];
  if (program === undefined) throw new Error(`there is no built-in pause program for ${arch}`);
  return Buffer.from(program, 'base64');
}
TS
} >"$here/../../../workers/image/pause-program.ts"
rm -r "$out"
