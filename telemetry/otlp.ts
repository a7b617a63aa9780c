// Spans to a collector by OTLP/HTTP in JSON (opentelemetry-proto 1.x), in batches and beside the requests: what a collector
// does not take in time is dropped and counted, and no request waits for it.
import type { Attributes, Span, SpanKind } from './span.ts'

/** Of all requests together. At some 500 bytes a span, 2 MB. */
const MAX_WAITING = 4_096
const MAX_BATCH = 512
/** How long spans gather. */
const GATHER_MS = 1_000
const EXPORT_TIMEOUT_MS = 5_000
/** After it, a flush that was promised is not believed in any more: on Workers its request may have been ended. */
const LOST_AFTER_MS = 60_000

export interface OtlpConfig {
  /** Where traces are posted to. */
  readonly url: string
  /** May hold a credential: they go nowhere but there. */
  readonly headers: Readonly<Record<string, string>>
  readonly service: string
  /** Of all traces, 0 to 1. */
  readonly ratio: number
}

export interface ExporterOptions extends OtlpConfig {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
  readonly now: () => number
  /** After a batch that was lost, and where spans did not fit. */
  readonly onDropped: (spans: number) => void
}

const KINDS: Readonly<Record<SpanKind, number>> = { internal: 1, server: 2, client: 3 }
const STATUS_ERROR = 2

export class Exporter {
  readonly #options: ExporterOptions
  readonly #resource: object
  #waiting: Span[] = []
  #refused = 0
  #flushingSince = Number.NEGATIVE_INFINITY
  readonly counts = { exported: 0, dropped: 0 }

  constructor(options: ExporterOptions) {
    this.#options = options
    this.#resource = { attributes: [attribute('service.name', options.service)] }
  }

  /** The same for every tier that sees the trace, since it goes by the id: by its lower half, which is random. */
  isSampled(traceId: string): boolean {
    return Number.parseInt(traceId.slice(-8), 16) < this.#options.ratio * 2 ** 32
  }

  add(spans: readonly Span[]): void {
    const fitting = spans.slice(0, Math.max(0, MAX_WAITING - this.#waiting.length))
    this.#waiting.push(...fitting)
    this.#refused += spans.length - fitting.length
  }

  /** Unless one is on its way, a flush in a while; `waitUntil` keeps the host alive for it. */
  flushSoon(waitUntil: (work: Promise<unknown>) => void): void {
    const { now } = this.#options
    if (this.#waiting.length === 0 || now() - this.#flushingSince < LOST_AFTER_MS) return
    this.#flushingSince = now()
    waitUntil(new Promise((resolve) => setTimeout(resolve, GATHER_MS)).then(() => this.flush()))
  }

  async flush(): Promise<void> {
    let dropped = this.#refused
    this.#refused = 0
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, MAX_BATCH)
      if (await this.#send(batch)) this.counts.exported += batch.length
      else dropped += batch.length
    }
    this.#flushingSince = Number.NEGATIVE_INFINITY
    this.counts.dropped += dropped
    if (dropped > 0) this.#options.onDropped(dropped)
  }

  async #send(spans: readonly Span[]): Promise<boolean> {
    const { url, headers, fetch } = this.#options
    const scopeSpans = [{ scope: { name: 'sidepath' }, spans: spans.map(encode) }]
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json' },
        body: JSON.stringify({ resourceSpans: [{ resource: this.#resource, scopeSpans }] }),
        // The headers are for this address and for no other.
        redirect: 'manual',
        signal: AbortSignal.timeout(EXPORT_TIMEOUT_MS),
      })
      await response.body?.cancel()
      return Math.floor(response.status / 100) === 2
    } catch {
      return false
    }
  }
}

/** JSON has no 64-bit integers, so the mapping of protobuf writes nanoseconds as text. */
const nanos = (ms: number): string => String(BigInt(Math.round(ms * 1_000)) * 1_000n)

function attribute(key: string, value: string | number): object {
  return { key, value: typeof value === 'number' ? { intValue: value } : { stringValue: value } }
}

const attributesOf = (attributes: Attributes): object[] =>
  Object.entries(attributes).flatMap(([key, value]) => (value === undefined ? [] : [attribute(key, value)]))

function encode({ of, spanId, startMs, endMs = startMs, attributes, events, isError }: Span): object {
  return {
    traceId: of.traceId,
    spanId,
    ...(of.parentId === undefined ? {} : { parentSpanId: of.parentId }),
    name: of.name,
    kind: KINDS[of.kind],
    startTimeUnixNano: nanos(startMs),
    endTimeUnixNano: nanos(Math.max(endMs, startMs)),
    attributes: attributesOf(attributes),
    events: events.map(({ name, atMs }) => ({ name, timeUnixNano: nanos(atMs) })),
    ...(isError ? { status: { code: STATUS_ERROR } } : {}),
  }
}
