// Starts bench/backend-process.ts.
import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import type { ServeOptions } from '../../gpu-backend/serve.ts'
import type { FromBackend } from '../backend-process.ts'

export interface SpawnedBackend {
  readonly process: ChildProcess
  readonly url: string
  readonly base: string
  /** From the start of the process. */
  readonly readyMs: number
  /** Resident memory, a sample a second. */
  readonly rss: readonly number[]
  /** Resolves when the process is gone. */
  end(signal: NodeJS.Signals): Promise<void>
}

export function spawnBackend(options: Omit<ServeOptions, 'log'>): Promise<SpawnedBackend> {
  const begun = performance.now()
  const child = fork(join(import.meta.dirname, '..', 'backend-process.ts'), {
    env: { ...process.env, BACKEND: JSON.stringify(options) },
    execArgv: [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const rss: number[] = []
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const end = (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal)
    return gone
  }
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the backend ended with code ${code}`)))
    child.on('message', (message: FromBackend) => {
      if ('rss' in message) rss.push(message.rss)
      else resolve({ ...message, process: child, readyMs: performance.now() - begun, rss, end })
    })
  })
}
