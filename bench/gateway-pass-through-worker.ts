// The pass-through as a Worker.
import { realWorld } from '../gateway/real-world.ts'
import { createPassThrough } from './gateway-pass-through.ts'

export default {
  fetch: (request: Request, env: { readonly UPSTREAM: string }) =>
    createPassThrough(realWorld, env.UPSTREAM).fetch(request),
}
