// Adapters from the store, read, hashed, checked and laid out in threads of their own: a step of the engine waits for none
// of it. A thread that dies takes the loads with it that it had, and the next one starts another.
import { Worker } from 'node:worker_threads'
import type { Manifest } from '../../compiler/contract.ts'
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import { toError } from './failure.ts'
import { bufferOf, type Packed } from './packed.ts'
import type { Failure } from './request.ts'

export interface LoaderData {
  readonly manifest: Manifest
  readonly rank: number
  /** In the order in which they are looked through. */
  readonly folders: readonly string[]
}

export interface LoadCall {
  readonly id: number
  readonly digest: string
  readonly mix: Mix | undefined
}

/** Memory of an adapter that has gone, for the next one. */
export interface Returned {
  readonly returned: ArrayBuffer
}

export type Loaded = { readonly id: number } & ({ readonly packed: Packed } | { readonly failure: Failure })

export interface Loader {
  /** Throws `model_not_found`, `adapter_refused`, or `engine_down` where the thread died over it. */
  read(digest: string, mix?: Mix): Promise<Packed>
  /** Nobody uses it any more; its factors are gone after this. */
  giveBack(packed: Packed): void
  close(): Promise<void>
}

interface Waiting {
  resolve(packed: Packed): void
  reject(error: Error): void
}

/** `entry`: of another thread, for tests. */
export function startLoader(workerData: LoaderData, entry = new URL('./loader-worker.ts', import.meta.url)): Loader {
  const waiting = new Map<number, Waiting>()
  let nextId = 1
  let closed = false
  let worker: Worker | undefined = start()

  function start(): Worker {
    const started = new Worker(entry, { workerData, name: 'sidepath-loader' })
    started.unref()
    const end = (): void => {
      if (worker !== started) return
      worker = undefined
      const error = new BackendError('engine_down', 'the thread that loads adapters has ended; try again')
      for (const { reject } of waiting.values()) reject(error)
      waiting.clear()
    }
    started.on('error', end)
    started.on('exit', end)
    started.on('message', (loaded: Loaded) => {
      const call = waiting.get(loaded.id)
      waiting.delete(loaded.id)
      if (waiting.size === 0) started.unref()
      if ('packed' in loaded) call?.resolve(loaded.packed)
      else call?.reject(toError(loaded.failure))
    })
    return started
  }

  return {
    read: (digest, mix) =>
      new Promise((resolve, reject) => {
        if (closed) {
          reject(new BackendError('engine_down', 'the backend is shutting down; try another one'))
          return
        }
        worker ??= start()
        const id = nextId++
        waiting.set(id, { resolve, reject })
        worker.ref()
        worker.postMessage({ id, digest, mix } satisfies LoadCall)
      }),
    giveBack(packed) {
      const returned = bufferOf(packed)
      worker?.postMessage({ returned } satisfies Returned, [returned])
    },
    async close() {
      closed = true
      await worker?.terminate()
    },
  }
}
