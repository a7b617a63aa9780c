// XGrammar in WebAssembly. Its package says that it is a module and holds a script, so Node cannot import it as it is.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type * as Xgrammar from '@mlc-ai/web-xgrammar'

let loaded: typeof Xgrammar | undefined

/** What a script finds around it, and a console that says nothing: it prints what it cannot parse, a caller's. */
const PARAMETERS = ['module', 'exports', 'require', '__filename', '__dirname', 'console']
const MUTE = { log() {}, warn() {}, error() {} }

/** Once per thread; about 50 ms. */
export function loadXgrammar(): typeof Xgrammar {
  if (loaded !== undefined) return loaded
  const file = fileURLToPath(import.meta.resolve('@mlc-ai/web-xgrammar'))
  // Of the package's own file alone. `node:vm` would do it as well, but cannot import() without an experiment.
  const script = new Function(...PARAMETERS, readFileSync(file, 'utf8'))
  const exports = {}
  script({ exports }, exports, createRequire(file), file, dirname(file), MUTE)
  loaded = exports as typeof Xgrammar
  return loaded
}
