// Who gets in: requests wait here for memory and for the slot of their adapter, and are refused when they can never run.
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import type { Model, Row } from './model.ts'
import { type Account, Queue } from './queue.ts'
import type { Began, GenerateRequest } from './request.ts'
import type { Pinned } from './residency.ts'

/** Requests that find a slot overtake one that does not, this many times; after that it is waited for. */
const MAX_OVERTAKEN = 32
/** Of those that wait for a row, the first ones' adapters are read meanwhile: about as many as leave within a few steps. */
const PREFETCHED = 4

export interface AdmissionOptions {
  readonly model: Model
  /** Undefined where the graph has no low-rank path. */
  readonly adapters:
    | {
        pin(digest: string, mix: Mix | undefined, tenant: string): Pinned
        prefetch(digest: string, mix: Mix | undefined, tenant: string): void
        forget(digest: string): void
      }
    | undefined
  readonly maxQueue: number
}

export interface Admitted {
  readonly id: number
  readonly request: GenerateRequest
  readonly row: Row
  /** Pinned; 0 for the base. */
  readonly slot: number
  /** Of its tenant; it was charged with all that the request may come to run. */
  readonly account: Account
  readonly began: Began
}

interface Waiting {
  readonly id: number
  readonly request: GenerateRequest
  readonly tenant: string
  /** Tokens that it may come to run. */
  readonly cost: number
  overtaken: number
  readonly queuedMs: number
  loadingMs: number | null
}

/** As the threads of one process, and other tiers, count. */
const preciseNow = (): number => performance.timeOrigin + performance.now()

export class Admission {
  readonly #options: AdmissionOptions
  readonly #queue: Queue<Waiting>

  constructor(options: AdmissionOptions) {
    this.#options = options
    this.#queue = new Queue(options.maxQueue)
  }

  get size(): number {
    return this.#queue.size
  }

  /** Those that waiting requests ask for, each once. */
  adapters(): string[] {
    return [...new Set(this.#queue.items().flatMap(({ request }) => request.adapter ?? []))]
  }

  /** Throws `BackendError` when the request can never run, or when too many wait. */
  add(id: number, request: GenerateRequest): void {
    const { model, adapters } = this.#options
    const { promptIds, maxTokens, adapter, tenant } = request
    const need = promptIds.length + maxTokens
    if (promptIds.length === 0) throw new BackendError('request_invalid', 'the prompt has no tokens', 'prompt')
    if (need > model.maxPositions) {
      const found = `${promptIds.length} prompt tokens and max_tokens ${maxTokens} are ${need}`
      const message = `${found}; the model has ${model.maxPositions} positions`
      throw new BackendError('context_length_exceeded', message, 'max_tokens')
    }
    if (!model.fits(need)) {
      throw new BackendError('context_length_exceeded', `${need} tokens do not fit the KV cache of this backend`)
    }
    if (adapter !== null && adapters === undefined) throw notRouted()
    if (this.#queue.full) throw new BackendError('queue_full', 'too many requests are waiting; try again later')
    this.#queue.add({ id, request, tenant, cost: need, overtaken: 0, queuedMs: preciseNow(), loadingMs: null })
  }

  /** False when it does not wait here. */
  drop(id: number): boolean {
    const waiting = this.#queue.items().find((item) => item.id === id)
    if (waiting === undefined) return false
    this.#queue.drop(waiting)
    this.#forgetUnwanted(waiting.request.adapter)
    return true
  }

  dropAll(): void {
    for (const waiting of this.#queue.items()) this.#queue.drop(waiting)
  }

  /** All that can run now, with a row opened and a slot pinned for each. */
  admit(): Admitted[] {
    const { model, adapters } = this.#options
    const admitted: Admitted[] = []
    const passedBy: Waiting[] = []
    const inTurn = this.#queue.inTurn()
    for (const [at, waiting] of inTurn.entries()) {
      const { id, request } = waiting
      const need = request.promptIds.length + request.maxTokens
      // Memory is given in turn: who needs much is not passed by those who need little.
      if (!model.hasRoom(need)) {
        this.#prefetch(inTurn.slice(at, at + PREFETCHED))
        break
      }
      const slot = request.adapter === null ? 0 : adapters!.pin(request.adapter, request.mix, request.tenant)
      if (slot === 'full') passedBy.push(waiting)
      if (slot === 'full' && waiting.overtaken >= MAX_OVERTAKEN) break
      if (slot === 'loading') waiting.loadingMs ??= preciseNow()
      if (typeof slot === 'string') continue
      for (const other of passedBy) other.overtaken += 1
      const account = this.#queue.serve(waiting)
      const { queuedMs, loadingMs } = waiting
      const began = { queuedMs, loadingMs, admittedMs: preciseNow() }
      admitted.push({ id, request, row: model.open(need), slot, account, began })
    }
    return admitted
  }

  /** A read of an adapter has ended; returns the requests that its failure takes with it. */
  loadEnded(digest: string, failed: boolean): number[] {
    const lost = failed ? this.#queue.items().filter(({ request }) => request.adapter === digest) : []
    for (const waiting of lost) this.#queue.drop(waiting)
    this.#forgetUnwanted(digest)
    return lost.map(({ id }) => id)
  }

  /** So that no row stands empty for a load when their turn comes. */
  #prefetch(next: readonly Waiting[]): void {
    for (const { request } of next) {
      if (request.adapter !== null) this.#options.adapters!.prefetch(request.adapter, request.mix, request.tenant)
    }
  }

  #forgetUnwanted(digest: string | null): void {
    if (digest === null) return
    if (!this.#queue.items().some(({ request }) => request.adapter === digest)) this.#options.adapters?.forget(digest)
  }
}

export function notRouted(): BackendError {
  return new BackendError('model_not_found', 'this artifact has no adapter slots')
}
