// The way to the backends on Node: kept connections, and answers without web streams, which cost more than the request.
// It is a World's `fetch` for what the gateway asks of one; anything else goes to the global one.
import { Agent, type Dispatcher } from 'undici'

/** Chunks wait here while the caller reads slowly; beyond it the backend is made to wait. */
const MAX_WAITING_BYTES = 256 << 10

export interface PooledFetch {
  fetch(url: string, init: RequestInit): Promise<Response>
  close(): Promise<void>
}

export function createPooledFetch(): PooledFetch {
  // The gateway's own timeouts are the ones that count.
  const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0 })
  return {
    fetch(url, init) {
      const { body, headers, redirect } = init
      if (redirect !== 'manual' || typeof body !== 'string' || !isPlain(headers)) return fetch(url, init)
      return ask(agent, url, { method: init.method ?? 'GET', headers, body, signal: init.signal ?? undefined })
    },
    close: () => agent.destroy(),
  }
}

const isPlain = (headers: RequestInit['headers']): headers is Record<string, string> =>
  headers !== undefined && Object.getPrototypeOf(headers) === Object.prototype

interface Asked {
  readonly method: string
  readonly headers: Record<string, string>
  readonly body: string
  readonly signal: AbortSignal | undefined
}

function ask(agent: Agent, url: string, { method, headers, body, signal }: Asked): Promise<Response> {
  const { origin, pathname, search } = originOf(url)
  return new Promise((resolve, reject) => {
    let started: Dispatcher.DispatchController | undefined
    let answer: PooledBody | undefined
    const onAbort = () => {
      const reason: unknown = signal?.reason
      const error = reason instanceof Error ? reason : new Error('aborted')
      reject(error)
      answer?.fail(error)
      started?.abort(error)
    }
    const end = () => signal?.removeEventListener('abort', onAbort)
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    agent.dispatch(
      { origin, path: pathname + search, method: method as Dispatcher.HttpMethod, headers, body },
      {
        onRequestStart(controller) {
          started = controller
          if (signal?.aborted) controller.abort(new Error('aborted'))
        },
        onResponseStart(controller, status, received) {
          if (status < 200) return
          if (received['content-encoding'] !== undefined) {
            // None was offered, and nothing here decodes one.
            controller.abort(new TypeError('the answer has a content encoding'))
            return
          }
          answer = new PooledBody(controller)
          resolve(new PooledResponse(status, received, answer) as unknown as Response)
        },
        onResponseData: (_, chunk) => answer?.push(chunk),
        onResponseEnd() {
          end()
          answer?.finish()
        },
        onResponseError(_, error) {
          end()
          answer?.fail(error)
          reject(error)
        },
      },
    )
  })
}

/** A gateway has a handful of backends, and asks each at a handful of paths. */
const MAX_ORIGINS = 256
const origins = new Map<string, URL>()

function originOf(url: string): URL {
  const known = origins.get(url)
  if (known !== undefined) return known
  const parsed = new URL(url)
  if (origins.size >= MAX_ORIGINS) origins.clear()
  origins.set(url, parsed)
  return parsed
}

class PooledResponse {
  readonly status: number
  readonly body: PooledBody
  readonly headers: { get(name: string): string | null }

  constructor(status: number, received: Record<string, string | string[] | undefined>, body: PooledBody) {
    this.status = status
    this.body = body
    this.headers = {
      get(name) {
        const value = received[name.toLowerCase()]
        return value === undefined ? null : Array.isArray(value) ? value.join(', ') : value
      },
    }
  }
}

type Read = { readonly done: false; readonly value: Uint8Array } | { readonly done: true; readonly value: undefined }
const DONE: Read = { done: true, value: undefined }

/** A ReadableStream and its reader, as far as they are used: one reader, chunks in order, an end or an error. */
class PooledBody {
  readonly #controller: Dispatcher.DispatchController
  readonly #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #ended = false
  #error: Error | undefined
  #reader: { resolve(read: Read): void; reject(error: Error): void } | undefined
  #closed: PromiseWithResolvers<undefined> | undefined
  locked = false

  constructor(controller: Dispatcher.DispatchController) {
    this.#controller = controller
  }

  getReader(): this {
    if (this.locked) throw new TypeError('the answer has a reader already')
    this.locked = true
    return this
  }

  read(): Promise<Read> {
    const value = this.#waiting.shift()
    if (value !== undefined) {
      this.#waitingBytes -= value.length
      if (this.#controller.paused && this.#waitingBytes < MAX_WAITING_BYTES) this.#controller.resume()
      return Promise.resolve({ done: false, value })
    }
    if (this.#error !== undefined) return Promise.reject(this.#error)
    if (this.#ended) return Promise.resolve(DONE)
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject }
    })
  }

  async cancel(): Promise<void> {
    if (this.#ended || this.#error !== undefined) return
    this.finish()
    this.#waiting.length = 0
    this.#controller.abort(new Error('the answer was abandoned'))
  }

  /** What a real reader has; made where it is asked for. */
  get closed(): Promise<undefined> {
    this.#closed ??= Promise.withResolvers()
    if (this.#error !== undefined) this.#closed.reject(this.#error)
    else if (this.#ended) this.#closed.resolve(undefined)
    return this.#closed.promise
  }

  push(chunk: Uint8Array): void {
    if (this.#ended || this.#error !== undefined) return
    if (this.#reader !== undefined) {
      const { resolve } = this.#reader
      this.#reader = undefined
      resolve({ done: false, value: chunk })
      return
    }
    this.#waiting.push(chunk)
    this.#waitingBytes += chunk.length
    if (this.#waitingBytes >= MAX_WAITING_BYTES) this.#controller.pause()
  }

  finish(): void {
    if (this.#error !== undefined) return
    this.#ended = true
    this.#reader?.resolve(DONE)
    this.#closed?.resolve(undefined)
  }

  fail(error: Error): void {
    if (this.#ended || this.#error !== undefined) return
    this.#error = error
    this.#waiting.length = 0
    this.#reader?.reject(error)
    this.#closed?.reject(error)
  }
}
