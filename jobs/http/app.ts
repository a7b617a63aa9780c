// The routes. One is public; everything else, known or not, needs the token first.
import { randomUUID } from 'node:crypto'
import { Hono } from 'hono'
import type { Board } from '../board.ts'
import { paths, Recipe } from '../contract.ts'
import { faultFields, JobsError, type Log } from '../errors.ts'
import { jobOf, summaryOf } from '../job-list.ts'
import { MAX_STREAMS } from '../limits.ts'
import { answerError, toJobsError } from './answer-error.ts'
import { bodyOf, type Env } from './env.ts'
import { streamEvents } from './events.ts'
import { guard } from './guard.ts'
import { announcedBytes, readBody, readDigest, readPage } from './read-input.ts'
import { sendFile } from './send-file.ts'

export interface AppOptions {
  readonly board: Board
  readonly token: string
  readonly log: Log
  /** Milliseconds of a clock. */
  readonly now: () => number
}

/** What a caller may call a request; anything else gets an id of ours. */
const REQUEST_ID = /^[\w-]{1,64}$/

export function createApp({ board, token, log, now }: AppOptions): Hono<Env> {
  const app = new Hono<Env>()
  app.use(async (context, next) => {
    const startMs = now()
    const given = context.req.header('x-request-id') ?? ''
    const requestId = REQUEST_ID.test(given) ? given : randomUUID()
    context.set('requestId', requestId)
    await next()
    context.header('x-request-id', requestId)
    context.header('x-content-type-options', 'nosniff')
    log({ event: 'request', requestId, method: context.req.method, status: context.res.status, ms: now() - startMs })
  })
  app.onError((error, context) => {
    if (toJobsError(error) === undefined && !context.req.raw.signal.aborted) {
      log({ event: 'fault', requestId: context.get('requestId'), ...faultFields(error) })
    }
    return answerError(context, error)
  })

  app.get(paths.health, (context) => context.json({ ok: true }))
  app.use(guard(token))
  app.use(async (_, next) => {
    if (board.closed) throw new JobsError('draining', 'this service is shutting down')
    await next()
  })
  addBlobs(app, board)
  addJobs(app, board)
  addEvents(app, board)
  app.get('/v1/artifacts/:id/:file{.+}', async (context) => {
    const file = await board.artifacts.openFile(readDigest(context, 'id'), context.req.param('file'))
    if (file === undefined) throw new JobsError('not_found', 'no such file of an artifact')
    return sendFile(context, file)
  })
  app.all('*', () => {
    throw new JobsError('not_found', 'no such route')
  })
  return app
}

function addBlobs(app: Hono<Env>, board: Board): void {
  // Serves HEAD too.
  app.get('/v1/blobs/:sha256', (context) => {
    const sha256 = readDigest(context, 'sha256')
    const bytes = board.blobs.sizeOf(sha256)
    if (bytes === undefined) throw new JobsError('not_found', 'no such file')
    return context.json({ sha256, bytes })
  })
  app.put('/v1/blobs/:sha256', async (context) => {
    const sha256 = readDigest(context, 'sha256')
    const { raw } = context.req
    if (raw.headers.has('content-encoding')) {
      throw new JobsError('unsupported_media_type', 'send the bytes as they are, without a content encoding')
    }
    const fresh = await board.blobs.put({ sha256, announcedBytes: announcedBytes(raw), bytes: bodyOf(context) })
    return context.json({ sha256, bytes: board.blobs.sizeOf(sha256) }, fresh ? 201 : 200)
  })
  app.delete('/v1/blobs/:sha256', async (context) => {
    const sha256 = readDigest(context, 'sha256')
    await board.removeBlob(sha256)
    return context.json({ sha256 })
  })
}

function addJobs(app: Hono<Env>, board: Board): void {
  app.post(paths.jobs, async (context) => {
    const { entry, fresh } = await board.submit(await readBody(context, Recipe))
    return context.json(jobOf(entry), fresh ? 202 : 200)
  })
  app.get(paths.jobs, (context) => {
    const { limit, before } = readPage(context)
    const older = board.jobs.all().filter(({ stored }) => stored.queuedAt < before)
    return context.json({ data: older.reverse().slice(0, limit).map(summaryOf) })
  })
  app.get('/v1/jobs/:id', (context) => context.json(jobOf(board.jobs.get(readDigest(context, 'id')))))
  app.delete('/v1/jobs/:id', async (context) => context.json(jobOf(await board.remove(readDigest(context, 'id')))))
}

function addEvents(app: Hono<Env>, board: Board): void {
  let streams = 0
  app.get('/v1/jobs/:id/events', (context) => {
    const entry = board.jobs.get(readDigest(context, 'id'))
    const headers = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache, no-transform' }
    if (context.req.method === 'HEAD') return context.body(null, 200, headers)
    if (streams >= MAX_STREAMS) throw new JobsError('streams_full', `${MAX_STREAMS} event streams are open`)
    streams += 1
    const gone = new AbortController()
    const end = () => {
      if (gone.signal.aborted) return
      gone.abort()
      streams -= 1
    }
    context.req.raw.signal.addEventListener('abort', end, { once: true })
    return context.body(streamEvents(board.watch(entry, gone.signal), end), 200, headers)
  })
}
