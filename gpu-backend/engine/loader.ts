// Adapters from the store, read, hashed, checked and laid out in a thread of their own: a step of the engine waits for none
// of it.
import { Worker } from 'node:worker_threads'
import type { Manifest } from '../../compiler/contract.ts'
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import { toError } from './failure.ts'
import type { Packed } from './packed.ts'
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

export type Loaded = { readonly id: number } & ({ readonly packed: Packed } | { readonly failure: Failure })

export interface Loader {
  /** Throws `model_not_found` or `adapter_refused`. */
  read(digest: string, mix?: Mix): Promise<Packed>
  close(): Promise<void>
}

export function startLoader(workerData: LoaderData): Loader {
  const worker = new Worker(new URL('./loader-worker.ts', import.meta.url), { workerData, name: 'sidepath-loader' })
  worker.unref()
  const waiting = new Map<number, { resolve: (packed: Packed) => void; reject: (error: Error) => void }>()
  let nextId = 1
  let gone: Error | undefined
  const end = (error: Error): void => {
    gone ??= error
    for (const { reject } of waiting.values()) reject(gone)
    waiting.clear()
  }
  worker.on('error', end)
  worker.on('exit', () => end(new BackendError('engine_down', 'the thread that loads adapters has ended')))
  worker.on('message', (loaded: Loaded) => {
    const call = waiting.get(loaded.id)
    waiting.delete(loaded.id)
    if (waiting.size === 0) worker.unref()
    if ('packed' in loaded) call?.resolve(loaded.packed)
    else call?.reject(toError(loaded.failure))
  })
  return {
    read: (digest, mix) =>
      new Promise((resolve, reject) => {
        if (gone !== undefined) {
          reject(gone)
          return
        }
        const id = nextId++
        waiting.set(id, { resolve, reject })
        worker.ref()
        worker.postMessage({ id, digest, mix } satisfies LoadCall)
      }),
    async close() {
      await worker.terminate()
    },
  }
}
