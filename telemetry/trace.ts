// The spans of one request, handed on together once it is over, with all that it still owed.
import { type Attributes, Span, type SpanKind } from './span.ts'

/** A request has a handful; a loop that begins one each time round must not fill the memory. */
const MAX_SPANS = 64

export interface TraceOptions {
  /** Of the root, which is what the tier was asked for. */
  readonly name: string
  readonly traceId: string
  /** The caller's span; undefined: the trace begins here. */
  readonly parentId: string | undefined
  /** Whether the tiers below are to record it as well. */
  readonly flags: string
  /** Milliseconds since 1970. */
  readonly now: () => number
  readonly onEnd: (spans: readonly Span[]) => void
}

export class Trace {
  readonly root: Span
  readonly #options: TraceOptions
  readonly #spans: Span[]
  #owed = 1

  constructor(options: TraceOptions) {
    const { name, traceId, parentId, flags, now } = options
    this.#options = options
    this.root = new Span({ name, kind: 'server', traceId, parentId, flags, now })
    this.#spans = [this.root]
  }

  /** `startMs`: where it began before anybody could say so. */
  begin(name: string, kind: SpanKind = 'internal', startMs?: number): Span {
    const { traceId, flags, now } = this.root.of
    const span = new Span({ name, kind, traceId, parentId: this.root.spanId, flags, now }, startMs)
    if (this.#spans.length < MAX_SPANS) this.#spans.push(span)
    return span
  }

  /** The request is not over before this is. */
  owe(work: Promise<unknown>): void {
    this.#owed += 1
    const settle = () => this.#settle()
    work.then(settle, settle)
  }

  /** The tier has answered. */
  end(attributes: Attributes): void {
    this.root.set(attributes)
    this.#settle()
  }

  #settle(): void {
    this.#owed -= 1
    if (this.#owed > 0) return
    for (const span of this.#spans) span.end()
    this.#options.onEnd(this.#spans)
  }
}

/** `work` in a span of its own, where there is a trace. */
export async function traced<T>(trace: Trace | undefined, name: string, work: () => Promise<T>): Promise<T> {
  if (trace === undefined) return work()
  const span = trace.begin(name)
  try {
    return await work()
  } catch (error) {
    span.fail(error instanceof Error ? error.constructor.name : 'other')
    throw error
  } finally {
    span.end()
  }
}
