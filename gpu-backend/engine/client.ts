// The engine as the main thread sees it: requests out, pieces back, whatever happens to the worker thread.
import { Worker } from 'node:worker_threads'
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import { toError, toFailure } from './failure.ts'
import { Pieces } from './pieces.ts'
import type { Call, EngineInfo, FromWorker, Outcome, ToWorker, WorkerData } from './protocol.ts'
import type { EmbedRequest, EngineConfig, GenerateRequest, Piece, Stats } from './request.ts'
import type { Resident } from './slots.ts'

export interface EngineClient {
  readonly info: EngineInfo
  /** False while there is no worker that could serve. */
  readonly alive: boolean
  readonly stats: Stats
  /** Ends when the generation does; leaving the loop early, or `signal`, aborts it. Throws `BackendError`. */
  generate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<Piece, void, undefined>
  /** A vector per row. `signal` aborts it. Throws `BackendError`. */
  embed(request: EmbedRequest, signal?: AbortSignal): Promise<readonly Float32Array[]>
  load(digest: string, mix?: Mix): Promise<number>
  unload(digest: string): Promise<void>
  residents(): Promise<readonly Resident[]>
  /** Running requests fail with `engine_down`. */
  close(): Promise<void>
}

type Log = (event: Record<string, unknown>) => void

/** One crash may be bad luck; a second one soon would only burn the machine. */
const MAX_RESTARTS = 1
/** The longest run of a graph that is still taken for one: 128 tokens of a large base on a slow machine take seconds. */
const MAX_SILENCE_MS = 60_000
/** How often the silence of a worker is looked at before it is taken for hung. */
const LOOKS = 4
const CLOSE_WITHIN_MS = 2_000

const WORKER = new URL('./worker.ts', import.meta.url)

export interface StartOptions {
  readonly worker?: URL
  /** A worker that says nothing for so long is ended. */
  readonly maxSilenceMs?: number
}

/** Throws what kept the worker from starting. */
export async function startEngine(
  config: EngineConfig,
  log: Log,
  { worker = WORKER, maxSilenceMs = MAX_SILENCE_MS }: StartOptions = {},
): Promise<EngineClient> {
  const client = new WorkerEngine(config, log, worker, maxSilenceMs)
  await client.start()
  return client
}

class WorkerEngine implements EngineClient {
  readonly #config: EngineConfig
  readonly #log: Log
  readonly #script: URL
  readonly #rows = new Map<number, Pieces>()
  readonly #calls = new Map<number, (outcome: Outcome) => void>()
  #worker: Worker | undefined
  #info: EngineInfo | undefined
  #stats: Stats | undefined
  #nextId = 1
  #restarts = 0
  #ready = false
  #closed = false
  readonly #maxSilenceMs: number
  #watch: NodeJS.Timeout | undefined
  /** Looks at the clock since the worker was last heard: when this thread is late itself, it looks once. */
  #silentLooks = 0

  constructor(config: EngineConfig, log: Log, script: URL, maxSilenceMs: number) {
    this.#config = config
    this.#log = log
    this.#script = script
    this.#maxSilenceMs = maxSilenceMs
  }

  get info(): EngineInfo {
    return this.#info!
  }

  get alive(): boolean {
    return this.#ready
  }

  get stats(): Stats {
    return this.#stats!
  }

  start(): Promise<void> {
    const workerData: WorkerData = { config: this.#config }
    const worker = new Worker(this.#script, { workerData, name: 'sidepath-engine' })
    this.#worker = worker
    return new Promise((resolve, reject) => {
      worker.on('message', (message: FromWorker) => {
        if (worker !== this.#worker) return
        if (message.type === 'unready') {
          reject(toError(message.failure))
          void worker.terminate()
        } else this.#receive(message, resolve)
      })
      worker.on('error', (error) => this.#log({ event: 'engine_error', message: String(error) }))
      worker.on('exit', (code) => {
        reject(new BackendError('engine_down', `the engine's worker ended with code ${code} before it was ready`))
        if (worker === this.#worker) this.#lost(code)
      })
    })
  }

  async *generate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<Piece, void, undefined> {
    if (!this.#ready) throw down()
    signal?.throwIfAborted()
    const id = this.#nextId++
    const pieces = new Pieces()
    // At once, and not when the reader asks for the next piece: it may never ask again.
    const abort = (): void => {
      pieces.fail(signal?.reason)
      if (!pieces.finished) this.#send({ type: 'abort', id })
    }
    this.#rows.set(id, pieces)
    signal?.addEventListener('abort', abort, { once: true })
    try {
      this.#send({ type: 'generate', id, request })
      yield* pieces.read()
    } finally {
      signal?.removeEventListener('abort', abort)
      this.#rows.delete(id)
      if (!pieces.finished && !signal?.aborted) this.#send({ type: 'abort', id })
    }
  }

  async embed(request: EmbedRequest, signal?: AbortSignal): Promise<readonly Float32Array[]> {
    signal?.throwIfAborted()
    const id = this.#nextId++
    const abort = (): void => this.#send({ type: 'abort', id })
    signal?.addEventListener('abort', abort, { once: true })
    try {
      const outcome = await this.#call({ type: 'embed', id, request })
      return 'vectors' in outcome ? outcome.vectors : []
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  async load(digest: string, mix?: Mix): Promise<number> {
    const outcome = await this.#call({ type: 'load', id: this.#nextId++, digest, mix })
    return 'slot' in outcome ? outcome.slot : 0
  }

  async unload(digest: string): Promise<void> {
    await this.#call({ type: 'unload', id: this.#nextId++, digest })
  }

  async residents(): Promise<readonly Resident[]> {
    const outcome = await this.#call({ type: 'list', id: this.#nextId++ })
    return 'residents' in outcome ? outcome.residents : []
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const worker = this.#worker
    if (worker === undefined) return
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    this.#send({ type: 'close' })
    const late = setTimeout(() => void worker.terminate(), CLOSE_WITHIN_MS)
    await ended
    clearTimeout(late)
  }

  #call(message: Call): Promise<Outcome> {
    if (!this.#ready) return Promise.reject(down())
    return new Promise((resolve, reject) => {
      this.#calls.set(message.id, (outcome) =>
        'failure' in outcome ? reject(toError(outcome.failure)) : resolve(outcome),
      )
      this.#send(message)
    })
  }

  #receive(message: Exclude<FromWorker, { type: 'unready' }>, started: () => void): void {
    this.#stats = message.stats
    this.#silentLooks = 0
    if (message.type === 'ready') {
      this.#info = message.info
      this.#ready = true
      this.#watchOver()
      started()
    } else if (message.type === 'alive') {
      // That it came is what it says.
    } else if (message.type === 'done') {
      this.#calls.get(message.id)?.(message.outcome)
      this.#calls.delete(message.id)
    } else {
      for (const event of message.events) {
        const pieces = this.#rows.get(event.id)
        if ('piece' in event) pieces?.push(event.piece)
        else {
          if (event.failure.code === 'internal') this.#log({ event: 'engine_fault', message: event.failure.message })
          pieces?.refuse(toError(event.failure))
        }
      }
    }
  }

  /** A run that hangs blocks its thread, whose requests would wait for ever. */
  #watchOver(): void {
    this.#silentLooks = 0
    this.#watch = setInterval(() => {
      this.#silentLooks += 1
      if (this.#silentLooks <= LOOKS) return
      this.#log({ event: 'engine_hung', silentMs: this.#maxSilenceMs })
      // Native code that never returns keeps even a terminated thread from ending, so nobody waits for that.
      void this.#worker?.terminate()
      this.#lost(-1)
    }, this.#maxSilenceMs / LOOKS).unref()
  }

  #send(message: ToWorker): void {
    this.#worker?.postMessage(message)
  }

  /** The worker has ended, whether we wanted it or not: nobody may wait for it for ever. */
  #lost(exitCode: number): void {
    clearInterval(this.#watch)
    const wasReady = this.#ready
    this.#ready = false
    this.#worker = undefined
    for (const pieces of this.#rows.values()) pieces.refuse(down())
    for (const settle of this.#calls.values()) settle({ failure: toFailure(down()) })
    this.#calls.clear()
    if (this.#closed || !wasReady) return
    const restart = this.#restarts++ < MAX_RESTARTS
    this.#log({ event: 'engine_down', exitCode, restart })
    if (restart)
      this.start().catch((error) => this.#log({ event: 'engine_down', message: String(error), restart: false }))
  }
}

function down(): BackendError {
  return new BackendError('engine_down', 'the engine is not running; try again later')
}
