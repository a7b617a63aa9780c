// A step of a request: when it began and ended, and what may be known of it. Attributes are listed one by one, so that a
// prompt, a key or an address cannot come along with the rest of an object.
import { formatTraceparent, newSpanId } from './trace-context.ts'

export interface Attributes {
  'http.request.method'?: string
  /** A class of paths, never the path: that may hold what a caller should not have put there. */
  'http.route'?: string
  'http.response.status_code'?: number
  /** A code of ours, or the kind of an error. */
  'error.type'?: string
  'sidepath.request_id'?: string
  'sidepath.tenant'?: string
  /** The public name that was decided on, never what the caller wrote. */
  'sidepath.model'?: string
  'sidepath.backend'?: string
  'sidepath.outcome'?: string
  'gen_ai.usage.input_tokens'?: number
  'gen_ai.usage.output_tokens'?: number
}

export type SpanKind = 'internal' | 'server' | 'client'

interface SpanEvent {
  readonly name: string
  readonly atMs: number
}

export interface SpanOf {
  readonly name: string
  readonly kind: SpanKind
  readonly traceId: string
  readonly parentId: string | undefined
  readonly flags: string
  readonly now: () => number
}

/** Longest a kind of error is told: codes of ours are shorter. */
const ERROR_TYPE = /^\w{1,64}$/

export class Span {
  readonly of: SpanOf
  readonly spanId: string = newSpanId()
  readonly startMs: number
  readonly attributes: Attributes = {}
  readonly events: SpanEvent[] = []
  endMs: number | undefined
  isError = false
  readonly #now: () => number

  constructor(of: SpanOf, startMs = of.now()) {
    this.of = of
    this.#now = of.now
    this.startMs = startMs
  }

  /** For what is asked of another tier within this span. */
  get traceparent(): string {
    return formatTraceparent(this.of.traceId, this.spanId, this.of.flags)
  }

  set(attributes: Attributes): this {
    Object.assign(this.attributes, attributes)
    return this
  }

  event(name: string): void {
    this.events.push({ name, atMs: this.#now() })
  }

  fail(type: string): void {
    this.isError = true
    this.attributes['error.type'] = ERROR_TYPE.test(type) ? type : 'other'
  }

  /** The first end counts. */
  end(atMs = this.#now()): void {
    this.endMs ??= atMs
  }
}
