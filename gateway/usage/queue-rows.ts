// Rows that the database does not take now → messages of a queue, whose consumer writes them when it does.
import { log } from '../log.ts'
import type { ExposureRow, FactsRow, UsageRow } from './usage-rows.ts'

/** Of Cloudflare Queues; as far as it is used. */
export interface QueueBinding {
  sendBatch(messages: readonly { readonly body: unknown; readonly contentType: 'json' }[]): Promise<unknown>
}

export interface Rows {
  readonly facts: readonly FactsRow[]
  readonly rows: readonly UsageRow[]
  readonly exposures: readonly ExposureRow[]
}

/** A message may have 128 kB, of which the queue takes some 100 bytes for itself; sent together, 256 kB. */
export const MAX_MESSAGE_BYTES = 120_000
const MESSAGES_AT_ONCE = 2

/** Brackets and names around the rows of a message. */
const ENVELOPE_BYTES = 64

const encoder = new TextEncoder()
const bytesOf = (item: unknown): number => encoder.encode(JSON.stringify(item)).length

/** In as many messages as it takes; facts that no message can hold are left. */
export function splitRows({ facts, rows, exposures }: Rows): { messages: readonly Rows[]; left: readonly FactsRow[] } {
  const messages: { facts: FactsRow[]; rows: UsageRow[]; exposures: ExposureRow[] }[] = []
  const left: FactsRow[] = []
  let size = Number.POSITIVE_INFINITY
  /** The message that has room for it; undefined: none could. */
  const roomFor = (item: unknown) => {
    const bytes = bytesOf(item) + 1
    if (bytes + ENVELOPE_BYTES > MAX_MESSAGE_BYTES) return undefined
    if (size + bytes > MAX_MESSAGE_BYTES) {
      messages.push({ facts: [], rows: [], exposures: [] })
      size = ENVELOPE_BYTES
    }
    size += bytes
    return messages.at(-1)
  }
  for (const item of facts) {
    const message = roomFor(item)
    if (message === undefined) left.push(item)
    else message.facts.push(item)
  }
  for (const item of rows) roomFor(item)?.rows.push(item)
  for (const item of exposures) roomFor(item)?.exposures.push(item)
  return { messages, left }
}

/** What no message could hold; all else is with the queue then. Rejects where the queue does not take it. */
export async function queueRows(queue: QueueBinding, all: Rows): Promise<readonly FactsRow[]> {
  const { messages, left } = splitRows(all)
  for (let at = 0; at < messages.length; at += MESSAGES_AT_ONCE) {
    const some = messages.slice(at, at + MESSAGES_AT_ONCE)
    await queue.sendBatch(some.map((body) => ({ body, contentType: 'json' })))
  }
  if (messages.length > 0) log('usage.queued', { rows: all.rows.length, messages: messages.length })
  return left
}
