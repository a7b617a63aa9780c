// The gateway without its duties, for comparison: the same framework and the same way out, and no decision between them.
import { Hono } from 'hono'
import type { World } from '../gateway/context.ts'

export function createPassThrough(world: World, upstream: string): Hono {
  const app = new Hono()
  app.post('/v1/chat/completions', async (c) => {
    const body = await c.req.raw.text()
    const response = await world.fetch(`${upstream}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
      redirect: 'manual',
    })
    return new Response(response.body, {
      headers: { 'content-type': response.headers.get('content-type') ?? 'application/json' },
    })
  })
  return app
}
