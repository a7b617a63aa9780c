// `sidepath console`: pages for a browser on this machine. So far one, which trains.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { TOKEN_VARIABLE } from '../jobs/http/guard.ts'
import { createConsole } from './console/app.ts'
import { openBases } from './console/base-files.ts'
import { UserError } from './fail.ts'
import { serveApp } from './gateway/serve-app.ts'
import { shutdownOnSignal } from './up/shutdown.ts'

export interface ConsoleCommandOptions {
  readonly base?: readonly string[]
  readonly port: number
  readonly compiler?: string
}

const DEMO = join(import.meta.dirname, '..', 'examples', 'demo')
/** Which answer of the demo's messages its examples ask for. */
const TASK = 'clauses'

/** Resolves when it serves; the process then lives until SIGINT or SIGTERM. */
export async function consoleCommand({ base, port, compiler }: ConsoleCommandOptions): Promise<void> {
  const app = await createConsole({
    bases: await openBases(base ?? [`demo=${join(DEMO, 'base')}`]),
    sample: base === undefined ? { name: `${TASK}.jsonl`, text: await demoExamples() } : undefined,
    compiler: compiler === undefined ? undefined : compilerAccess(compiler),
  })
  const shutdown = shutdownOnSignal()
  // Its store of runs and WebGPU want an origin that a browser trusts: this machine's own.
  const served = await serveApp((request) => app.fetch(request), { host: '127.0.0.1', port }).catch((error) => {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    throw new UserError(`port ${port} is in use; stop what uses it or pass --port with another.`)
  })
  await shutdown.opened(served.close)
  process.stdout.write(`console on ${served.url}/train\n`)
}

function compilerAccess(text: string): { url: string; token: string } {
  const token = process.env[TOKEN_VARIABLE]
  // Whatever this process may start has no use for it.
  delete process.env[TOKEN_VARIABLE]
  if (token === undefined) {
    throw new UserError(`--compiler: the token of the compiler service is not set; put it into ${TOKEN_VARIABLE}.`)
  }
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new UserError(`--compiler "${text}" is no address; write e.g. http://127.0.0.1:8789.`)
  }
  return { url: url.origin, token }
}

/** The demo's held-out messages as lines to learn from. */
async function demoExamples(): Promise<string> {
  const lines = (await readFile(join(DEMO, 'heldout.jsonl'), 'utf8')).trim().split('\n')
  return lines
    .map((line) => {
      const { prompt, [TASK]: answer } = JSON.parse(line) as Record<string, string>
      const messages = [
        { role: 'user', content: prompt },
        { role: 'assistant', content: answer },
      ]
      return `${JSON.stringify({ messages })}\n`
    })
    .join('')
}
