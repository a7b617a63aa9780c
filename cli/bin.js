#!/usr/bin/env node
// Entry point. Plain JavaScript, so that an old Node gets a sentence instead of a syntax error.
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `sidepath: this is Node ${process.versions.node}; sidepath needs 22.18 or newer. ` +
      'In the checkout, `npm start` and `npx sidepath` use the Node that `npm ci` installed.\n',
  )
  process.exit(1)
}
// Most of a short verb's time, and some 30 MB, is to strip types and to compile; the second run need not. In a folder of
// the user's own: what is in the cache is run. Where it cannot be written, nothing changes.
enableCompileCache(
  process.env.NODE_COMPILE_CACHE ||
    join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'sidepath', 'compile'),
)
const { main } = await import('./main.ts')
await main(process.argv)
