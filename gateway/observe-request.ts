// A trace for each request, where a collector or somebody who counts is there for it. Requests of callers are recorded by our
// own share, whatever flag they came with: it would let anybody fill the collector, or keep out of it.
import { createMiddleware } from 'hono/factory'
import { Exporter } from '../telemetry/otlp.ts'
import type { Span } from '../telemetry/span.ts'
import { Trace } from '../telemetry/trace.ts'
import { newTraceId, parseTraceparent } from '../telemetry/trace-context.ts'
import type { Config } from './config.ts'
import type { GatewayEnv, World } from './context.ts'
import { GatewayError } from './errors.ts'
import { log } from './log.ts'

/** What a path is called where it is counted or told: one of these, however many paths there are. */
const ROUTES: ReadonlySet<string> = new Set([
  '/healthz',
  '/v1/models',
  '/v1/chat/completions',
  '/v1/completions',
  '/v1/embeddings',
  '/v1/feedback',
])
const PREFIXES = ['/v1/models/', '/admin/'] as const
const METHODS: ReadonlySet<string> = new Set(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'])

export function routeOf(path: string): string {
  if (ROUTES.has(path)) return path
  const prefix = PREFIXES.find((one) => path.startsWith(one))
  return prefix === undefined ? 'other' : `${prefix}*`
}

export function createObserver(world: World) {
  const exporters = new WeakMap<Config, Exporter>()
  const exporterOf = (config: Config): Exporter | undefined => {
    const { otlp } = config
    if (otlp === undefined) return undefined
    const known = exporters.get(config)
    if (known !== undefined) return known
    const { now, fetch } = world
    const made = new Exporter({ ...otlp, fetch, now, onDropped: (spans) => log('telemetry.dropped', { spans }) })
    exporters.set(config, made)
    return made
  }
  return createMiddleware<GatewayEnv>(async (c, next) => {
    const exporter = exporterOf(c.get('config'))
    if (exporter === undefined && world.onSpans === undefined) return next()
    const caller = parseTraceparent(c.req.header('traceparent'))
    const traceId = caller?.traceId ?? newTraceId()
    const isExported = exporter?.isSampled(traceId) === true
    const method = METHODS.has(c.req.method) ? c.req.method : 'other'
    const route = routeOf(c.req.path)
    const waitUntil = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
    const trace = new Trace({
      name: `${method} ${route}`,
      traceId,
      parentId: caller?.parentId,
      flags: isExported ? '01' : (caller?.flags ?? '00'),
      now: clockOf(world),
      onEnd(spans: readonly Span[]) {
        world.onSpans?.(spans)
        if (!isExported) return
        exporter?.add(spans)
        exporter?.flushSoon(waitUntil)
      },
    })
    c.set('trace', trace)
    await next()
    const { error } = c
    const status = c.res.status
    if (error !== undefined) trace.root.fail(codeOf(error))
    trace.end({
      'http.request.method': method,
      'http.route': route,
      'http.response.status_code': status,
      'sidepath.request_id': c.get('requestId'),
    })
  })
}

/** The world's time when it begins, and from then on what a finer clock says has passed. */
function clockOf(world: World): () => number {
  const [began, from] = [world.now(), performance.now()]
  return () => began + performance.now() - from
}

const codeOf = (error: Error): string =>
  error instanceof GatewayError ? (error.body.error.code ?? 'refused') : error.constructor.name
