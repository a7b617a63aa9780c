// A real browser for a test, where this machine has one; `scripts/install-chromium.sh` installs it where it can.
import { existsSync } from 'node:fs'

const CANDIDATES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

export const chromiumPath = [process.env.SIDEPATH_CHROMIUM ?? '', ...CANDIDATES].find((path) => existsSync(path))

/** The Vulkan driver in software that Debian's chromium ships. */
export const SWIFTSHADER = '/usr/lib/chromium/vk_swiftshader_icd.json'

/** WebGPU without a GPU; the sandbox wants privileges that a container lacks. */
export const CHROMIUM_FLAGS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--disable-dev-shm-usage',
]

/** Loud, because a skipped test is no passed test. */
export function sayMissing(what: string): void {
  process.stderr.write(`\nSKIPPED: ${what}\n`)
}
