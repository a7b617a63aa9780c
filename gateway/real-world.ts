// The real clock and the real network, and how long each is waited for.
import type { World } from './context.ts'

export const realWorld: World = {
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  timeouts: { connectMs: 3_000, firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 300_000, readinessMs: 2_000 },
  keeping: { lingerMs: 100, spareMs: 5_000, beforeDispatch: false },
}
