// Shadow arms: a copy of the request, whose answer nobody gets. It is sent beside the caller's, waits for nothing of it and
// holds nothing of it up, is recorded apart from usage, and fails alone.
import { and, eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { World } from '../context.ts'
import { shadows } from '../database/records.ts'
import type { Assignment, Shadow } from '../infer/choose-target.ts'
import { errorFields, log } from '../log.ts'
import type { Answer } from '../upstream/call-upstream.ts'
import { createTail, readTokens, type Tokens } from '../usage/read-usage.ts'
import { refusedInWhole, watchRefusal } from './detect-refusal.ts'

export interface Copied {
  readonly tenantId: string
  readonly requestId: string
  readonly assignment: Assignment
}

export type Send = (shadow: Shadow, signal: AbortSignal) => Promise<Answer>

interface Heard {
  readonly tokens: Tokens | null
  readonly ttftMs: number
  readonly refused: boolean
}

/** Never throws: whoever waits for it waits for it to be over. */
export async function mirrorRequest(
  db: DrizzleD1Database,
  world: World,
  copied: Copied,
  to: readonly Shadow[],
  send: Send,
): Promise<void> {
  await Promise.all(to.map((shadow) => mirror(db, world, copied, shadow, send)))
}

async function mirror(db: DrizzleD1Database, world: World, copied: Copied, shadow: Shadow, send: Send): Promise<void> {
  const { tenantId, requestId, assignment } = copied
  const { armId, grantId } = shadow
  const { experimentId, bucketVersion, subject } = assignment
  const createdAt = world.now()
  try {
    await db
      .insert(shadows)
      .values({ requestId, tenantId, experimentId, bucketVersion, armId, subject, grantId, status: 'open', createdAt })
    const heard = await listen(world, shadow, send, createdAt).catch(() => null)
    await db
      .update(shadows)
      .set({
        status: heard === null ? 'failed' : 'settled',
        promptTokens: heard?.tokens?.promptTokens ?? null,
        completionTokens: heard?.tokens?.completionTokens ?? null,
        ttftMs: heard?.ttftMs ?? null,
        refused: heard?.refused ?? null,
        settledAt: world.now(),
      })
      .where(and(eq(shadows.requestId, requestId), eq(shadows.armId, armId), eq(shadows.status, 'open')))
  } catch (error) {
    log('shadow.unsettled', { requestId, arm: armId, ...errorFields(error) })
  }
}

/** Reads the answer to its end and keeps what is counted of it. */
async function listen(world: World, shadow: Shadow, send: Send, startedAt: number): Promise<Heard> {
  // Its own: a caller who hangs up has had the answer, or not; the comparison goes on.
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(), world.timeouts.wholeAnswerMs)
  try {
    const answer = await send(shadow, controller.signal)
    const ttftMs = world.now() - startedAt
    if (answer.kind === 'whole') {
      const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(answer.bytes))
      return { tokens: readTokens(value), ttftMs, refused: refusedInWhole(value) }
    }
    controller.signal.addEventListener('abort', () => answer.controller.abort(), { once: true })
    const tail = createTail()
    const watch = watchRefusal()
    for (let chunk: Uint8Array | undefined = answer.first; chunk !== undefined; ) {
      tail.push(chunk)
      watch.push(chunk)
      chunk = (await answer.reader.read()).value
    }
    const { tokens, done } = tail.read()
    if (!done) throw new Error('the stream was cut')
    return { tokens, ttftMs, refused: watch.refused() }
  } finally {
    clearTimeout(timer)
  }
}
