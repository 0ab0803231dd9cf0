#!/usr/bin/env bash
# A Chromium for pages.test.mjs: makes target/browser/chromium, which starts one, and needs no root.
#
# It starts the one that is installed, if that is recent enough. Otherwise Debian's is unpacked below target/browser, with
# those of its libraries that the system lacks: apt finds and verifies the packages, as it is configured here, and nothing
# is installed. Debian keeps one version at a time, so the oldest that will do is what can be pinned.
#
#   BROWSER=/path/to/chromium   starts this one instead
#   BROWSER=debian              unpacks Debian's, whatever is installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

CHROMIUM_MIN=140

folder=$PWD/target/browser
wanted="$CHROMIUM_MIN ${BROWSER:-}"
say() { printf '[browser] %s\n' "$*" >&2; }
version_of() { "$1" --version 2>/dev/null | grep -o '[0-9][0-9.]*' | head -1 || true; }
recent() { local version; version=$(version_of "$1"); [ "${version%%.*}" -ge "$CHROMIUM_MIN" ] 2>/dev/null; }

if [ "$(cat "$folder/.wanted" 2>/dev/null)" = "$wanted" ] && recent "$folder/chromium"; then exit; fi

launcher() { # environment and program
  printf '#!/bin/sh\n%s exec "%s" "$@"\n' "$1" "$2" > "$folder/chromium"
  chmod +x "$folder/chromium"
  recent "$folder/chromium" || { "$folder/chromium" --version >&2; say "no Chromium $CHROMIUM_MIN or later: $2"; exit 1; }
  echo "$wanted" > "$folder/.wanted"
  say "$(version_of "$folder/chromium"): $2"
}

unpack() {
  command -v apt-get >/dev/null || { say "no Chromium, and no apt to have Debian's: set BROWSER"; exit 1; }
  local root=$folder/root work=$folder/apt packages libraries fonts=
  rm -rf "$root" "$work"
  mkdir -p "$root" "$work/lists/partial" "$work/archives/partial"
  # Lists and cache of its own, since those of the system are root's.
  local apt=(-qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives"
    -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none)
  apt-get "${apt[@]}" update >&2
  packages=$(apt-get "${apt[@]}" --simulate --no-install-recommends --reinstall install chromium chromium-common |
    sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  say "unpacking $(wc -w <<< "$packages") packages of Debian"
  # shellcheck disable=SC2086
  ( cd "$work/archives" && apt-get "${apt[@]}" download $packages >&2 )
  for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  rm -rf "$work"
  libraries=$(find "$root" \( -name '*.so' -o -name '*.so.*' \) -printf '%h\n' | sort -u | paste -sd:)
  if [ ! -e /etc/fonts/fonts.conf ]; then
    fonts=$folder/fonts.conf
    printf '<fontconfig><dir>%s</dir><cachedir>%s</cachedir><include>%s</include></fontconfig>\n' \
      "$root/usr/share/fonts" "$folder/fonts" "$root/usr/share/fontconfig/conf.avail/60-latin.conf" > "$fonts"
  fi
  launcher "LD_LIBRARY_PATH=\"$libraries\" ${fonts:+FONTCONFIG_FILE=\"$fonts\"}" "$root/usr/lib/chromium/chromium"
}

mkdir -p "$folder"
case "${BROWSER:-}" in
  debian) unpack ;;
  ?*) launcher "" "$BROWSER" ;;
  *)
    for name in chromium chromium-browser google-chrome; do
      if program=$(command -v $name) && recent "$program"; then launcher "" "$program"; exit; fi
    done
    unpack ;;
esac
