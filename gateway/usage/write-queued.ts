// The queue's consumer: writes the rows of each message as the ledger would have. Messages may come twice, late and in any
// order; each row counts once. One that cannot be written comes again later, and ends in the dead-letter queue.
import * as z from 'zod'
import { isDatabaseAway } from '../database/from-database.ts'
import type { SqlDatabase, SqlStatement } from '../database/migrate.ts'
import { errorFields, log } from '../log.ts'
import type { Rows } from './queue-rows.ts'
import { writeExposures, writeFacts, writeUsage } from './usage-rows.ts'

/** Of Cloudflare Queues; as far as it is used. */
interface QueuedMessage {
  readonly id: string
  readonly attempts: number
  readonly body: unknown
  ack(): void
  retry(options: { readonly delaySeconds: number }): void
}

/** Doubled each time: with the 20 retries of wrangler.toml the last one is after 12 hours. */
const FIRST_DELAY_S = 10
const MAX_DELAY_S = 3_600

const text = z.string()
const optional = text.nullable()
const number = z.int()
const maybe = number.nullable()
const part = z.object({ adapter: text, digest: text, weight: z.number(), grant: text })

/** As `queueRows` writes it; one of another version of the gateway may differ. */
const Message = z.object({
  facts: z.array(z.object({ digest: text, text, createdAt: number })),
  rows: z.array(
    z.object({
      requestId: text,
      tenantId: text,
      keyId: optional,
      userId: optional,
      model: text,
      baseDigest: text,
      adapterId: optional,
      adapterDigest: optional,
      grantId: text,
      experimentId: optional,
      bucketVersion: maybe,
      armId: optional,
      mix: z.array(part).nullable(),
      assignedArmId: optional,
      factsDigest: optional,
      receipt: text,
      status: z.enum(['open', 'settled', 'aborted', 'failed']),
      promptTokens: maybe,
      completionTokens: maybe,
      ttftMs: maybe,
      createdAt: number,
      settledAt: maybe,
      promptPrice: maybe,
      completionPrice: maybe,
      charge: z.enum(['measured', 'bound', 'nothing']).nullable(),
      cost: maybe,
      holds: z.null(),
      heldUntil: z.null(),
    }),
  ),
  exposures: z.array(
    z.object({
      tenantId: text,
      experimentId: text,
      bucketVersion: number,
      subject: text,
      assignedArmId: text,
      servedArmId: text,
      analysed: z.boolean(),
      requestId: text,
      createdAt: number,
    }),
  ),
})

export async function writeQueued(db: SqlDatabase | undefined, messages: readonly QueuedMessage[]): Promise<void> {
  for (const message of messages) {
    const isWritten = db !== undefined && (await write(db, message))
    if (isWritten) message.ack()
    else message.retry({ delaySeconds: Math.min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** Math.max(0, message.attempts - 1)) })
  }
}

async function write(db: SqlDatabase, { id, body }: QueuedMessage): Promise<boolean> {
  const read = Message.safeParse(body)
  if (!read.success) {
    log('usage.unreadable', { message: id, at: read.error.issues[0]?.path.join('.') ?? null })
    return false
  }
  const all: Rows = read.data
  try {
    await db.batch(statementsOf(db, all))
    return true
  } catch (error) {
    log('usage.unsettled', { message: id, ...errorFields(error) })
    return !isDatabaseAway(error) && (await writeOneByOne(db, all))
  }
}

const statementsOf = (db: SqlDatabase, { facts, rows, exposures }: Rows): SqlStatement[] => [
  ...writeFacts(db, facts),
  ...writeUsage(db, rows),
  ...writeExposures(db, exposures),
]

/** One row that the database refuses for good must not keep the others; the message is kept for its sake. */
async function writeOneByOne(db: SqlDatabase, { facts, rows, exposures }: Rows): Promise<boolean> {
  const single = [
    ...facts.flatMap((row) => writeFacts(db, [row])),
    ...rows.flatMap((row) => writeUsage(db, [row])),
    ...exposures.flatMap((row) => writeExposures(db, [row])),
  ]
  let isWhole = true
  for (const statement of single) {
    try {
      await statement.run()
    } catch (error) {
      if (isDatabaseAway(error)) return false
      isWhole = false
      log('usage.refused', errorFields(error))
    }
  }
  return isWhole
}
