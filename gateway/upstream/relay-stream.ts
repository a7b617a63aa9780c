// Server-sent events, from the backend to the caller: bytes pass as they came, the tail is kept for the meter.

import type { Outcome } from '../usage/meter.ts'
import { createTail, type Tokens } from '../usage/read-usage.ts'
import type { Answer } from './call-upstream.ts'

type StreamAnswer = Extract<Answer, { kind: 'stream' }>

/**
 * What a caller sees where the backend stopped early. A clean end without it would pass for a complete answer.
 * The blank line first closes whatever event was cut.
 */
const INTERRUPTED = new TextEncoder().encode(
  `\n\ndata: ${JSON.stringify({
    error: {
      message: 'The answer was interrupted.',
      type: 'api_error',
      param: null,
      code: 'upstream_interrupted',
    },
  })}\n\n`,
)

export function relayStream(
  answer: StreamAnswer,
  options: {
    readonly idleMs: number
    /**
     * The caller's. A workerd that listens itself notices a reset at once, but a connection closed in good order only
     * with the next write; until then an idle backend runs on, at most to its timeout.
     */
    readonly signal: AbortSignal
    /** Sees each chunk as it passes. */
    readonly watch?: { push(chunk: Uint8Array): void } | undefined
    /** Called once. */
    readonly onEnd: (outcome: Outcome, tokens: Tokens | null) => void
  },
): ReadableStream<Uint8Array> {
  const { first, reader, controller } = answer
  const tail = createTail()
  let ended = false
  let reading = false
  let chunks = 0
  let chunksAtLastTick = 0

  // One timer for the whole stream: a timer per chunk costs more than passing the chunk.
  const timer = setInterval(() => {
    if (reading && chunks === chunksAtLastTick) controller.abort()
    chunksAtLastTick = chunks
  }, options.idleMs)

  /** True for the caller that ended it. */
  const end = (outcome: Outcome | 'complete'): boolean => {
    if (ended) return false
    ended = true
    clearInterval(timer)
    options.signal.removeEventListener('abort', onAbort)
    if (outcome !== 'complete') controller.abort()
    const { tokens, done } = tail.read()
    options.onEnd(outcome === 'complete' ? (done ? 'settled' : 'failed') : outcome, tokens)
    return done
  }
  const onAbort = () => void end('aborted')
  options.signal.addEventListener('abort', onAbort, { once: true })
  if (options.signal.aborted) onAbort()

  return new ReadableStream<Uint8Array>({
    start(sink) {
      tail.push(first)
      options.watch?.push(first)
      sink.enqueue(first)
    },
    async pull(sink) {
      try {
        reading = true
        const { done, value } = await reader.read()
        reading = false
        if (ended) return
        if (!done) {
          chunks++
          tail.push(value)
          options.watch?.push(value)
          sink.enqueue(value)
          return
        }
        // Without `[DONE]` it was cut, even if the connection closed in good order.
        if (!end('complete')) sink.enqueue(INTERRUPTED)
        sink.close()
      } catch {
        if (ended) return
        end('failed')
        sink.enqueue(INTERRUPTED)
        sink.close()
      }
    },
    cancel() {
      end('aborted')
    },
  })
}
