// A SQLite file, in a thread of its own. While one group of statements is on its way to the disk the next one gathers, so
// that many requests share one wait for it: each is told that it is written once it is, and no sooner.
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

export interface Bound {
  readonly sql: string
  readonly args: readonly unknown[]
}

/** All of it or none of it. */
export type Unit = readonly Bound[]

export interface Rows {
  readonly columns: readonly string[]
  readonly rows: readonly (readonly unknown[])[]
  readonly changes: number
  readonly lastInsertRowid: number
}

export interface Failure {
  readonly message: string
  readonly code: string
}

export class DatabaseError extends Error {
  readonly code: string

  constructor({ message, code }: Failure) {
    super(`${code}: ${message}`)
    this.code = code
  }
}

interface Waiting {
  readonly unit: Unit
  resolve(results: readonly Rows[]): void
  reject(error: Error): void
}

/** A long group would make those behind it wait; at this length the disk's share of each is small already. */
const MAX_GROUP = 256

export interface Executor {
  execute(unit: Unit): Promise<readonly Rows[]>
  close(): void
}

/**
 * `power`: what is answered is on the disk. `process`: so are changes of the registry, but rows of usage, exposures and
 * assignments are with the operating system only. They outlive this process, however it ends; where the power fails or
 * the system dies, those of the last tenths of a second are lost. `batch`: as `process`, of rows that reach this file in
 * batches, so that a process that is killed loses those of the last tenth of a second.
 */
export const DURABILITIES = ['power', 'process', 'batch'] as const
export type Durability = (typeof DURABILITIES)[number]

export async function openFile(path: string, durability: Durability): Promise<Executor> {
  const worker = new Worker(join(import.meta.dirname, 'libsql-worker.ts'), { workerData: { path, durability } })
  await new Promise<void>((resolve, reject) => {
    worker.once('message', () => resolve())
    worker.once('error', reject)
  })
  let waiting: Waiting[] = []
  let sent: Waiting[] = []
  let gone: Error | undefined
  let isClosing = false
  // The process may end while nothing is on its way.
  worker.unref()

  const send = () => {
    if (sent.length > 0) return
    // Last of all: a database that is closed must not be asked.
    if (waiting.length === 0) return isClosing ? worker.postMessage('close') : undefined
    sent = waiting.slice(0, MAX_GROUP)
    waiting = waiting.slice(MAX_GROUP)
    worker.ref()
    worker.postMessage(sent.map(({ unit }) => unit))
  }
  worker.on('message', (results: readonly (readonly Rows[] | Failure)[]) => {
    const answered = sent
    sent = []
    worker.unref()
    answered.forEach(({ resolve, reject }, at) => {
      const result = results[at]
      if (result === undefined) reject(new Error('the database gave no answer'))
      else if ('message' in result) reject(new DatabaseError(result))
      else resolve(result)
    })
    send()
  })
  const fail = (error: Error) => {
    gone = error
    for (const { reject } of [...sent, ...waiting]) reject(error)
    sent = []
    waiting = []
  }
  worker.on('error', fail)
  worker.on('exit', () => fail(new DatabaseError({ code: 'CLOSED', message: 'the database is closed' })))

  return {
    execute(unit) {
      if (gone !== undefined) return Promise.reject(gone)
      return new Promise((resolve, reject) => {
        waiting.push({ unit, resolve, reject })
        // What else this turn of the event loop asks for goes along.
        if (waiting.length === 1 && sent.length === 0) queueMicrotask(send)
      })
    },
    close() {
      if (isClosing) return
      isClosing = true
      gone ??= new DatabaseError({ code: 'CLOSED', message: 'the database is closed' })
      send()
    },
  }
}
