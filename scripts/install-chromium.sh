#!/usr/bin/env bash
# The browser that test/browser runs, with the Vulkan driver in software that test/backend/webgpu.test.ts runs Dawn on.
# Needs Debian or Ubuntu with apt and root; where that is not to be had it says so, and those tests skip and say so too.
set -euo pipefail

SWIFTSHADER=/usr/lib/chromium/vk_swiftshader_icd.json
if command -v chromium >/dev/null && [ -e "$SWIFTSHADER" ] && ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
  exit 0
fi

skip() {
  printf '\n*** SKIPPED: chromium is not installed (%s); the tests of WebGPU and of the page will be skipped ***\n\n' "$1" >&2
  exit 0
}

command -v apt-get >/dev/null || skip 'there is no apt-get'
[ "$(id -u)" = 0 ] || skip 'this is not root'
apt-get update -qq || skip 'apt-get update failed'
apt-get install -y -qq --no-install-recommends chromium libvulkan1 >/dev/null || skip 'apt-get install failed'
