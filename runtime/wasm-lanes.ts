// Worker threads that run one WebAssembly module over one shared memory. See `Lanes` in compiler/merge/matrix.ts.
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'

export interface Call {
  readonly name: string
  readonly args: readonly number[]
}

export type Answer = { readonly result: number } | { readonly error: string }

interface Waiting extends Call {
  readonly resolve: (result: number) => void
  readonly reject: (error: Error) => void
}

/** The part of WebAssembly that is used here; Node's types do not declare it. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer }
  compile(bytes: Uint8Array<ArrayBuffer>): Promise<object>
}

/** One lane a core, where not told otherwise. */
export function wasmLanes(lanes: number = availableParallelism()) {
  return {
    lanes,
    async open(assemble: (shared: boolean) => Uint8Array<ArrayBuffer>, pages: number) {
      const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })
      const module = await WebAssembly.compile(assemble(true))
      const threads = Array.from({ length: lanes }, () => startLane({ module, memory }))
      const idle = [...threads]
      const queue: Waiting[] = []
      const next = (): void => {
        if (queue.length === 0) return
        const thread = idle.pop()
        if (thread === undefined) return
        const call = queue.shift() as Waiting
        const done = () => {
          idle.push(thread)
          next()
        }
        thread.run(call).then(call.resolve, call.reject).finally(done)
      }
      return {
        buffer: memory.buffer,
        run: (name: string, args: readonly number[]) =>
          new Promise<number>((resolve, reject) => {
            queue.push({ name, args, resolve, reject })
            next()
          }),
        async close(): Promise<void> {
          await Promise.all(threads.map((thread) => thread.close()))
        },
      }
    },
  }
}

function startLane(workerData: object) {
  // Its own memory is small: what it works on is shared.
  const worker = new Worker(fileURLToPath(new URL('./wasm-lane.js', import.meta.url)), {
    workerData,
    // What the process was started with, a script on its command line for one, is not for the thread.
    execArgv: [],
    resourceLimits: { maxYoungGenerationSizeMb: 1, maxOldGenerationSizeMb: 16 },
  })
  worker.unref()
  let failed: Error | undefined
  let pending: Waiting | undefined
  const fail = (error: Error): void => {
    failed = error
    pending?.reject(error)
  }
  worker.on('error', fail)
  worker.on('exit', (code) => fail(new Error(`a merge thread ended with code ${code}`)))
  worker.on('message', (answer: Answer) => {
    if ('error' in answer) pending?.reject(new Error(answer.error))
    else pending?.resolve(answer.result)
  })
  return {
    run: ({ name, args }: Call) =>
      new Promise<number>((resolve, reject) => {
        if (failed !== undefined) {
          reject(failed)
          return
        }
        pending = { name, args, resolve, reject }
        worker.postMessage({ name, args } satisfies Call)
      }),
    close: () => worker.terminate(),
  }
}
