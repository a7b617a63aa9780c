// A backend in a process of its own, so that it can be watched from outside and killed: options come in BACKEND as JSON,
// a message says when it is ready, and one a second how much memory it has.
import { type ServeOptions, serve } from '../gpu-backend/serve.ts'

const RSS_EVERY_MS = 1_000

/** To the parent, which may be gone by now. */
const send = (message: FromBackend): void => void process.send?.(message, () => {})

export type FromBackend = { readonly url: string; readonly base: string } | { readonly rss: number }

const options = JSON.parse(process.env.BACKEND ?? '') as ServeOptions
const backend = await serve({ ...options, log: () => {} })
send({ url: backend.url, base: backend.ready.base })
setInterval(() => send({ rss: process.memoryUsage.rss() }), RSS_EVERY_MS)
process.on('disconnect', () => process.exit())
process.on('SIGTERM', () => void backend.close().then(() => process.exit()))
