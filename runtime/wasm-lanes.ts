// Worker threads that run one WebAssembly module over one shared memory, and read and write files into and out of it.
// See `Lanes` in compiler/merge/matrix.ts.
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'

interface Transfer {
  readonly file: number
  readonly offset: number
  readonly address: number
  readonly length: number
}

interface Step {
  readonly read?: Transfer
  readonly call?: { readonly name: string; readonly args: readonly number[] }
  readonly write?: Transfer
}

type Answer = { readonly result: number } | { readonly error: string; readonly code: string | undefined }

interface Waiting {
  readonly steps: readonly Step[]
  readonly resolve: (result: number) => void
  readonly reject: (error: Error) => void
}

/** The part of WebAssembly that is used here; Node's types do not declare it. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number; shared: true }) => { readonly buffer: SharedArrayBuffer }
  compile(bytes: Uint8Array<ArrayBuffer>): Promise<object>
}

/** One is worked on and one waits in the thread, so that no lane idles for the time of a message. */
const JOBS_PER_LANE = 2

/** One lane a core, where not told otherwise. */
export function wasmLanes(lanes: number = availableParallelism()) {
  return {
    lanes,
    async open(assemble: (shared: boolean) => Uint8Array<ArrayBuffer>, pages: number) {
      const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })
      const module = await WebAssembly.compile(assemble(true))
      const threads = Array.from({ length: lanes }, () => startLane({ module, memory }))
      const queue: Waiting[] = []
      const next = (): void => {
        const least = threads.reduce((a, b) => (b.pending < a.pending ? b : a))
        const waiting = least.pending < JOBS_PER_LANE ? queue.shift() : undefined
        if (waiting === undefined) return
        const { steps, resolve, reject } = waiting
        least.run(steps).then(resolve, reject).finally(next)
      }
      const run = (steps: readonly Step[]): Promise<number> =>
        new Promise((resolve, reject) => {
          queue.push({ steps, resolve, reject })
          next()
        })
      return {
        buffer: memory.buffer,
        run: (name: string, args: readonly number[]) => run([{ call: { name, args } }]),
        stream: run,
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
  /** Answers come in the order of the jobs. */
  const pending: Waiting[] = []
  const fail = (error: Error): void => {
    failed ??= error
    for (const { reject } of pending.splice(0)) reject(failed)
  }
  worker.on('error', fail)
  worker.on('exit', (code) => fail(new Error(`a lane ended with code ${code}`)))
  worker.on('message', (answer: Answer) => {
    const waiting = pending.shift()
    if ('error' in answer) waiting?.reject(Object.assign(new Error(answer.error), { code: answer.code }))
    else waiting?.resolve(answer.result)
  })
  return {
    get pending(): number {
      return pending.length
    },
    run: (steps: readonly Step[]) =>
      new Promise<number>((resolve, reject) => {
        if (failed !== undefined) {
          reject(failed)
          return
        }
        pending.push({ steps, resolve, reject })
        worker.postMessage(steps)
      }),
    close: () => worker.terminate(),
  }
}
