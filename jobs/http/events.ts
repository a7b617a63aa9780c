// A job as server-sent events. Each carries the whole present state, so who comes back has missed nothing that counts.
import { type Entry, summaryOf } from '../job-list.ts'

const encoder = new TextEncoder()
const KEEP_ALIVE = encoder.encode(': keep-alive\n\n')

/**
 * `event:` is the state where it is another than before, else `progress`; a final state ends the stream. Changes that a
 * slow reader did not take in time are not kept: the next event has the latest.
 */
export function streamEvents(
  changes: AsyncGenerator<Entry | undefined>,
  onEnd: () => void,
): ReadableStream<Uint8Array> {
  let lastState: string | undefined
  const encode = (entry: Entry | undefined): Uint8Array => {
    if (entry === undefined) return KEEP_ALIVE
    const summary = summaryOf(entry)
    const event = summary.state === lastState ? 'progress' : summary.state
    lastState = summary.state
    return encoder.encode(`event: ${event}\ndata: ${JSON.stringify(summary)}\n\n`)
  }
  return new ReadableStream(
    {
      async pull(controller) {
        const { value, done } = await changes.next()
        if (!done) return controller.enqueue(encode(value))
        onEnd()
        controller.close()
      },
      cancel: onEnd,
    },
    // Nothing is made before somebody takes it.
    { highWaterMark: 0 },
  )
}
