// After an install in the checkout: makes `npx sidepath` run this checkout, with no network.
// npm links the bins of dependencies only, and npx would look for `sidepath` in the registry's cache.
import { chmodSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'

const link = join('node_modules', '.bin', 'sidepath')
if (process.platform !== 'win32' && existsSync('node_modules')) {
  mkdirSync(join('node_modules', '.bin'), { recursive: true })
  rmSync(link, { force: true })
  symlinkSync(join('..', '..', 'cli', 'bin.js'), link)
  chmodSync(join('cli', 'bin.js'), 0o755)
}
