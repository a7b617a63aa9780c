// The routes. Two are public, and the metrics may be; everything else, known or not, needs a capability first.
import { randomUUID } from 'node:crypto'
import { Hono } from 'hono'
import { createMiddleware } from 'hono/factory'
import type { z } from 'zod'
import { parseTraceparent } from '../../telemetry/trace-context.ts'
import { type Capability, type LoadResponse, type Mix, paths, type Readiness } from '../contract.ts'
import { runnableOf } from '../engine/mix.ts'
import { BackendError } from '../errors.ts'
import { answerError } from './answer-error.ts'
import type { VerifyCapability } from './capability.ts'
import { embed } from './embed.ts'
import type { Env } from './env.ts'
import { chat, complete, type GenerateOptions } from './generate.ts'
import type { MayScrape } from './scrape.ts'

export interface AppOptions extends GenerateOptions {
  readonly verify: VerifyCapability
  readonly mayScrape: MayScrape
  /** True once the backend takes no new work. */
  readonly draining: () => boolean
}

/** What a caller may call a request; anything else gets an id of ours. */
const REQUEST_ID = /^[\w-]{1,64}$/

export function createApp(options: AppOptions): Hono<Env> {
  const { engine, verify, mayScrape, draining, log, now, metrics } = options
  const app = new Hono<Env>()

  app.use(async (context, next) => {
    const startMs = now()
    const given = context.req.header('x-request-id') ?? ''
    const requestId = REQUEST_ID.test(given) ? given : randomUUID()
    const trace = parseTraceparent(context.req.header('traceparent'))
    context.set('requestId', requestId)
    context.set('trace', trace)
    await next()
    context.header('x-request-id', requestId)
    log({
      event: 'request',
      requestId,
      ...trace,
      method: context.req.method,
      status: context.res.status,
      ms: now() - startMs,
    })
  })
  app.onError((error, context) => {
    const aborted = context.req.raw.signal.aborted
    // The message of an error of ours may hold anything, so only its kind and place are written down.
    if (!(error instanceof BackendError) && !aborted) {
      log({ event: 'fault', requestId: context.get('requestId'), fault: error.name, at: placeOf(error) })
    }
    return answerError(context, error)
  })

  app.get(paths.health, (context) => context.json({ ok: true }))
  app.get(paths.ready, (context) => {
    const ready = engine.alive && !draining()
    const { slots, free } = engine.stats
    const body: z.infer<typeof Readiness> = { ready, base: engine.info.base, slots, free }
    return context.json(body, ready ? 200 : 503)
  })

  // Before the rest, and while it drains: the last numbers are of interest too.
  app.get(paths.metrics, async (context) => {
    const authorization = context.req.header('authorization')
    if (!mayScrape(authorization) && (await verify(authorization)).act !== 'admin') {
      throw new BackendError('capability_scope', 'this route needs a capability that may admin')
    }
    return context.body(await metrics.text(), 200, { 'content-type': metrics.contentType })
  })

  app.use(async (context, next) => {
    context.set('capability', await verify(context.req.header('authorization')))
    if (draining()) throw new BackendError('draining', 'this backend is shutting down; try another one')
    await next()
  })
  app.post(paths.completions, may('infer'), (context) => complete(context, options))
  app.post(paths.chat, may('infer'), (context) => chat(context, options))
  app.post(paths.embeddings, may('infer'), (context) => embed(context, options))
  app.post(paths.load, may('load'), async (context) => {
    const startMs = now()
    const { digest, mix } = adapterOf(context.get('capability'))
    const slot = await engine.load(digest, mix)
    const body: z.infer<typeof LoadResponse> = { digest, slot, loadedMs: now() - startMs }
    return context.json(body)
  })
  app.post(paths.unload, may('admin'), async (context) => {
    const { digest } = adapterOf(context.get('capability'))
    await engine.unload(digest)
    return context.json({ digest })
  })
  app.get(paths.adapters, may('admin'), async (context) => context.json({ data: await engine.residents() }))
  app.all('*', () => {
    throw new BackendError('route_not_found', 'no such route')
  })
  return app
}

function may(act: Capability['act']) {
  return createMiddleware<Env>(async (context, next) => {
    if (context.get('capability').act !== act) {
      throw new BackendError('capability_scope', `this route needs a capability that may ${act}`)
    }
    await next()
  })
}

function adapterOf(capability: Capability): { digest: string; mix: Mix | undefined } {
  const { adapter, mix } = runnableOf(capability.adapter)
  if (adapter === null) throw new BackendError('request_invalid', 'the capability names no adapter')
  return { digest: adapter, mix }
}

function placeOf(error: Error): string {
  return /^\s+at (.*)$/m.exec(error.stack ?? '')?.[1] ?? ''
}
