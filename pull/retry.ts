// Tries again what may pass by itself: a few times, longer apart each time, and as late as the server asks.

import { Transient } from './errors.ts'
import { interrupted } from './hub.ts'

/** Waits 1, 2, 4 and 8 s between them: long enough for a restart, short enough to be told of an outage. */
const MAX_TRIES = 5
const FIRST_WAIT_MS = 1000
/** Fewer bytes are no progress: a server that cuts every connection at once would be asked for ever. */
const PROGRESS_BYTES = 1024 * 1024

export interface Retry {
  /** In the place of a timer; rejects when the signal is aborted. */
  readonly wait: (ms: number) => Promise<void>
}

/** `position`: how many bytes `step` has got so far; enough of them give it all its tries again. */
export async function retry<T>({ wait }: Retry, step: () => Promise<T>, position: () => number = () => 0): Promise<T> {
  let tries = 0
  let from = position()
  for (;;) {
    try {
      return await step()
    } catch (error) {
      if (!(error instanceof Transient)) throw error
      if (position() - from >= PROGRESS_BYTES) tries = 0
      from = position()
      tries += 1
      if (tries >= MAX_TRIES) throw error.final
      await wait(error.retryAfterMs ?? FIRST_WAIT_MS * 2 ** (tries - 1))
    }
  }
}

export function waiting(signal: AbortSignal | undefined): Retry['wait'] {
  return (ms) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(interrupted())
      const stop = () => {
        clearTimeout(timer)
        reject(interrupted())
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', stop)
        resolve()
      }, ms)
      signal?.addEventListener('abort', stop, { once: true })
    })
}
