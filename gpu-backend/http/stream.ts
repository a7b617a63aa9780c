// A generation as server-sent events.
import type { Piece } from '../engine/request.ts'
import { describeError } from './answer-error.ts'
import { type Shape, usageOf } from './shapes.ts'

export interface StreamOptions {
  readonly shape: Shape
  readonly promptTokens: number
  readonly includeUsage: boolean
  /** Every chunk carries the usage so far, so that an aborted stream can be billed. */
  readonly continuousUsage: boolean
  /** Aborted when the reader is gone. */
  readonly gone: AbortController
}

const encoder = new TextEncoder()
const DONE = encoder.encode('data: [DONE]\n\n')

/** Errors after the first byte become an error event, and no `[DONE]` follows. */
export function streamEvents(pieces: AsyncIterable<Piece>, options: StreamOptions): ReadableStream<Uint8Array> {
  const frames = frame(pieces, options)
  // Nobody pulls any more, so whatever waits inside is told to end.
  options.gone.signal.addEventListener('abort', () => void frames.return(undefined), { once: true })
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await frames.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    cancel: () => options.gone.abort(),
  })
}

async function* frame(pieces: AsyncIterable<Piece>, options: StreamOptions): AsyncGenerator<Uint8Array> {
  const { shape, promptTokens, includeUsage, continuousUsage } = options
  let tokens = 0
  const event = (chunk: object): Uint8Array => {
    if (continuousUsage) return encode({ ...chunk, usage: usageOf(promptTokens, tokens) })
    return encode(includeUsage ? { ...chunk, usage: null } : chunk)
  }
  try {
    if (shape.opening !== undefined) yield event(shape.opening)
    for await (const { ids, text, finish } of pieces) {
      tokens += ids.length
      // A piece whose text is held back is worth a chunk only for its usage.
      if (text === '' && finish === undefined && !continuousUsage) continue
      yield event(shape.chunk(text, finish ?? null))
    }
    if (includeUsage) yield encode({ ...shape.closing, usage: usageOf(promptTokens, tokens) })
    yield DONE
  } catch (error) {
    yield encode(describeError(error).body)
  }
}

function encode(data: object): Uint8Array {
  return encoder.encode(`data: ${JSON.stringify(data)}\n\n`)
}
