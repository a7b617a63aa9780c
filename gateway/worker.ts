// The Worker's entry: the gateway with the real clock and the real network, and what Cloudflare calls beside it.
import { createApp } from './app.ts'
import type { Bindings } from './config.ts'
import { realWorld } from './real-world.ts'
import { writeQueued } from './usage/write-queued.ts'

const app = createApp(realWorld)

export default {
  fetch: app.fetch,
  queue: ({ messages }, env) => writeQueued(env.DB, messages),
} satisfies ExportedHandler<Partial<Bindings>>
