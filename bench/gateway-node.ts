// One process of bench/gateway: the gateway without its duties, on the host that `sidepath gateway` is.
import { createPooledFetch } from '../cli/gateway/pooled-fetch.ts'
import { serveApp } from '../cli/gateway/serve-app.ts'
import { realWorld } from '../gateway/real-world.ts'
import { createPassThrough } from './gateway-pass-through.ts'

const { PORT, UPSTREAM } = process.env
const app = createPassThrough({ ...realWorld, fetch: createPooledFetch().fetch }, String(UPSTREAM))
await serveApp((request) => app.fetch(request), { host: '127.0.0.1', port: Number(PORT) })
console.log('ready')
