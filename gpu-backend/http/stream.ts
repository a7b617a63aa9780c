// An answer as server-sent events.
import type { Answer, UsageCount } from './answer.ts'
import { describeError } from './answer-error.ts'
import type { Indexed } from './run-choices.ts'

export interface StreamOptions {
  readonly answer: Answer
  readonly count: UsageCount
  readonly includeUsage: boolean
  /** Every chunk carries the usage so far, so that an aborted stream can be billed. */
  readonly continuousUsage: boolean
  /** Aborted when the reader is gone. */
  readonly gone: AbortController
}

const encoder = new TextEncoder()
const DONE = encoder.encode('data: [DONE]\n\n')

/** Errors after the first byte become an error event, and no `[DONE]` follows. */
export function streamEvents(pieces: AsyncIterable<Indexed>, options: StreamOptions): ReadableStream<Uint8Array> {
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

async function* frame(pieces: AsyncIterable<Indexed>, options: StreamOptions): AsyncGenerator<Uint8Array> {
  const { answer, count, includeUsage, continuousUsage } = options
  const event = (choices: readonly object[]): Uint8Array => {
    const chunk = { ...answer.chunkHead, choices }
    if (continuousUsage) return encode({ ...chunk, usage: count.usage })
    return encode(includeUsage ? { ...chunk, usage: null } : chunk)
  }
  try {
    for (const { opening } of answer.choices) if (opening !== undefined) yield event([opening])
    for await (const indexed of pieces) {
      const { index, piece } = indexed
      count.add(indexed)
      const { choice, silent } = answer.choices[index]!.chunk(piece)
      // Where nothing can be said yet, a chunk is worth its usage alone.
      if (!silent || continuousUsage) yield event([choice])
    }
    if (includeUsage) yield encode({ ...answer.chunkHead, choices: [], usage: count.usage })
    yield DONE
  } catch (error) {
    yield encode(describeError(error).body)
  }
}

function encode(data: object): Uint8Array {
  return encoder.encode(`data: ${JSON.stringify(data)}\n\n`)
}
