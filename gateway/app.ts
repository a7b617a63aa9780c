// The gateway, assembled: what runs in front of every route, and the table of routes.
import { type DrizzleD1Database, drizzle } from 'drizzle-orm/d1'
import { Hono } from 'hono'
import { createAdmin } from './admin/routes.ts'
import { type Bindings, type Config, readConfig } from './config.ts'
import type { GatewayEnv, World } from './context.ts'
import { isDatabaseAway } from './database/from-database.ts'
import { readReplicas } from './database/read-replicas.ts'
import { databaseUnavailable, GatewayError, internalError, misconfigured, notFound } from './errors.ts'
import { giveFeedback } from './experiment/give-feedback.ts'
import { addVerdicts } from './experiment/give-verdict.ts'
import { boundAddress, boundKey } from './flood-guard.ts'
import { hardenResponse } from './harden-response.ts'
import { createHealth } from './health.ts'
import { createGuard } from './identity/authenticate.ts'
import { infer } from './infer/infer.ts'
import { getModel, listModels } from './infer/list-models.ts'
import { errorFields, log } from './log.ts'
import { createObserver } from './observe-request.ts'
import { PolicyCache } from './policy/policy-cache.ts'
import { addReference } from './reference/add-reference.ts'
import { Ledger } from './usage/ledger.ts'

export function createApp(world: World): Hono<GatewayEnv> {
  const app = new Hono<GatewayEnv>()

  app.onError((error, c) => {
    const requestId = c.get('requestId')
    if (!(error instanceof GatewayError)) log('error', { requestId, ...errorFields(error) })
    const unknown = () => (isDatabaseAway(error) ? databaseUnavailable() : internalError())
    const { status, body, headers } = error instanceof GatewayError ? error : unknown()
    return c.json(body, status, headers)
  })
  app.notFound(() => {
    throw notFound()
  })

  app.use('*', async (c, next) => {
    c.set('world', world)
    await next()
  })
  app.use('*', hardenResponse)
  const policies = new PolicyCache(world.now)
  const read = createReader(world)
  app.use('*', async (c, next) => {
    const { config, db, ledger } = read(c.env)
    c.set('config', config)
    c.set('db', db)
    c.set('policies', policies)
    c.set('ledger', ledger)
    await next()
  })
  app.use('*', createObserver(world))
  app.use('*', boundAddress)
  app.use('*', createGuard(world))
  app.use('*', boundKey)

  app.get('/healthz', createHealth())
  addReference(app)
  app.get('/v1/models', listModels)
  app.get('/v1/models/:model', (c) => getModel(c, c.req.param('model')))
  app.post('/v1/chat/completions', (c) => infer(c, 'chat'))
  app.post('/v1/completions', (c) => infer(c, 'completions'))
  app.post('/v1/embeddings', (c) => infer(c, 'embeddings'))
  app.post('/v1/feedback', giveFeedback)
  addVerdicts(app)
  app.use('/admin/*', readReplicas)
  app.route('/admin', createAdmin())
  return app
}

interface Ready {
  readonly config: Config
  readonly db: DrizzleD1Database
  readonly ledger: Ledger
}

/** Bindings are checked once, not once a request. Those that will not do are looked at each time. */
function createReader({ keeping, now }: World): (bindings: Partial<Bindings>) => Ready {
  const known = new WeakMap<Partial<Bindings>, Ready>()
  /** One for each database, whatever object it comes in: what is gathered in it is of all requests. */
  const ledgers = new WeakMap<object, Ledger>()
  return (bindings) => {
    const found = known.get(bindings)
    if (found !== undefined) return found
    const config = readConfig(bindings)
    if (!('db' in config)) {
      log('config.invalid', { bindings: config.join(',') })
      throw misconfigured()
    }
    const ledger = ledgers.get(config.db) ?? new Ledger(config.db, keeping, now, bindings.USAGE_QUEUE)
    ledgers.set(config.db, ledger)
    const ready = { config, db: drizzle(config.db), ledger }
    known.set(bindings, ready)
    return ready
  }
}
