// One run of one job in a thread of its own, which can be ended at any moment, whatever the input does to it.
import { Worker } from 'node:worker_threads'
import type { Failure, Progress } from './contract.ts'
import { faultFields, type Log } from './errors.ts'
import { failureOf, toFailure } from './failure.ts'
import { WORKER_HEAP_MIB } from './limits.ts'
import { removePartials } from './partial-file.ts'
import type { RunData, RunMessage } from './run-protocol.ts'

export type Outcome =
  /** The caller commits or removes `staged`. */
  | { readonly kind: 'done'; readonly artifact: string; readonly staged: string }
  | { readonly kind: 'failed'; readonly failure: Failure }
  | { readonly kind: 'stopped' }

export interface Run {
  /** Never rejects. Nothing unfinished is left but what `done` names. */
  readonly outcome: Promise<Outcome>
  /** Ends the thread, mid-tensor if need be, and removes what it had written. */
  stop(): Promise<void>
}

export interface RunOptions {
  readonly timeoutMs: number
  readonly onProgress: (progress: Progress) => void
  readonly log: Log
}

const WORKER = new URL('./compile-worker.ts', import.meta.url)

export function startRun(data: RunData, { timeoutMs, onProgress, log }: RunOptions): Run {
  const worker = new Worker(WORKER, {
    workerData: data,
    name: 'sidepath-compile',
    resourceLimits: { maxOldGenerationSizeMb: WORKER_HEAP_MIB },
    // The token of the service is no business of the thread that reads hostile files.
    env: {},
  })
  const { promise: ended, resolve: end } = Promise.withResolvers<Outcome>()
  const fail = (failure: Failure, fault?: { fault: string; at: string }) => {
    if (fault !== undefined) log({ event: 'fault', job: data.id, ...fault })
    end({ kind: 'failed', failure })
  }
  const late = setTimeout(() => fail(failureOf('job_timeout')), timeoutMs)
  worker.on('message', (message: RunMessage) => {
    if (message.kind === 'progress') {
      const { kind: _, ...progress } = message
      onProgress(progress)
    } else if (message.kind === 'done') end(message)
    else fail(message.failure, message.fault)
  })
  worker.on('error', (error) => fail(toFailure(error), faultFields(error)))
  worker.on('exit', () => fail(failureOf('internal_error')))

  const clear = async () => {
    clearTimeout(late)
    await worker.terminate()
    await removePartials(data.artifacts, data.id)
  }
  const settle = async (): Promise<Outcome> => {
    const outcome = await ended
    if (outcome.kind === 'done') clearTimeout(late)
    else await clear().catch((error) => log({ event: 'fault', job: data.id, ...faultFields(error) }))
    return outcome
  }
  return {
    outcome: settle(),
    async stop() {
      end({ kind: 'stopped' })
      await clear()
    },
  }
}
