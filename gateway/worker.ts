// The Worker's entry: the gateway with the real clock and the real network.
import { createApp } from './app.ts'
import type { World } from './context.ts'

const world: World = {
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  timeouts: { firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 300_000, readinessMs: 2_000 },
}

export default createApp(world)
