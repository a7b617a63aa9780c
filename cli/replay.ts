// `sidepath replay RECEIPT`: makes a decision again from its record, by the gateway's own code, and says what has changed.
import { readFile, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import { type Decided, decidedOf } from '../gateway/usage/decided.ts'
import type { Facts } from '../gateway/usage/facts.ts'
import { changedFacts, replayDecision } from '../gateway/usage/replay-decision.ts'
import { askGateway } from './ask-gateway.ts'
import { UserError } from './fail.ts'

export interface ReplayOptions {
  readonly gateway: string
  readonly save?: string
  readonly json?: boolean
}

/** Exit 3: the record is not what was decided, which is an answer and no failure of ours. */
const EXIT_DIFFERS = 3
const RECEIPT = /^[0-9a-f]{32}$/
const MAX_RECORD_CHARS = 16 << 20

const Text = z.string().nullable()
const Part = z.object({ adapter: z.string(), digest: z.string(), weight: z.number(), grant: z.string() })
const Record = z.object({
  requestId: z.string(),
  tenantId: z.string(),
  keyId: Text,
  userId: Text,
  model: z.string(),
  baseDigest: z.string(),
  adapterId: Text,
  adapterDigest: Text,
  grantId: z.string(),
  experimentId: Text,
  bucketVersion: z.int().nullable(),
  armId: Text,
  mix: z.array(Part).nullable(),
  assignedArmId: Text,
  factsDigest: Text,
  createdAt: z.int(),
  receipt: z.string(),
  /** What it was decided on, and the same as it was when the record was fetched. */
  facts: Text,
  now: Text,
})
type Record = z.output<typeof Record>

export async function replayCommand(receipt: string, { gateway, save, json }: ReplayOptions): Promise<void> {
  const record = RECEIPT.test(receipt) ? await fetchRecord(gateway, receipt) : await readRecord(receipt)
  if (save !== undefined) await writeFile(save, `${JSON.stringify(record)}\n`)
  if (record.facts === null) {
    throw new UserError(
      `receipt ${record.receipt} is of before the facts of decisions were kept; it cannot be replayed.`,
    )
  }
  const decided = decidedOf(record)
  const { problems, sticky } = await replayDecision(decided, record.receipt, record.facts).catch((error: unknown) => {
    if (error instanceof SyntaxError)
      throw new UserError(`the facts of receipt ${record.receipt} are no JSON; fetch it again.`)
    throw error
  })
  const changed =
    record.now === null
      ? ['the caller is gone or disabled']
      : changedFacts(JSON.parse(record.facts) as Facts, JSON.parse(record.now) as Facts)
  const verdict = { receipt: record.receipt, same: problems.length === 0, problems, sticky, changed }
  process.stdout.write(`${json ? JSON.stringify(verdict) : describe(decided, verdict)}\n`)
  if (problems.length > 0) process.exitCode = EXIT_DIFFERS
}

async function fetchRecord(gateway: string, receipt: string): Promise<Record> {
  const record = await askGateway(gateway, `/receipts/${receipt}`, Record)
  if (record === null)
    throw new UserError(`the gateway knows no receipt ${receipt}; it is the header x-sidepath-receipt.`)
  return record
}

async function readRecord(path: string): Promise<Record> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    throw new UserError(`"${path}" is no receipt (32 hex digits) and no file that --save wrote.`)
  })
  const wrong = new UserError(`"${path}" is no record of a receipt; give a file that --save wrote.`)
  if (text.length > MAX_RECORD_CHARS) throw wrong
  try {
    return Record.parse(JSON.parse(text))
  } catch {
    throw wrong
  }
}

interface Verdict {
  readonly problems: readonly string[]
  readonly sticky: boolean
  readonly changed: readonly string[]
}

function describe(decided: Decided, { problems, sticky, changed }: Verdict): string {
  const who = decided.userId ?? decided.keyId ?? ''
  const what =
    decided.mix === null ? (decided.adapterId ?? 'the base') : decided.mix.map((part) => part.adapter).join(' + ')
  const arm =
    decided.armId === null ? '' : `, arm ${decided.armId}${sticky ? ' (assigned earlier, not by its bucket)' : ''}`
  const head = `${decided.tenantId}/${who} asked for ${decided.model} at ${new Date(decided.createdAt).toISOString()} and got ${what}${arm}, by grant ${decided.grantId}`
  const list = (items: readonly string[]) => items.map((item) => `  ${item}`).join('\n')
  const verdict = problems.length === 0 ? 'decided again: the same' : `decided again: not the same\n${list(problems)}`
  const since = changed.length === 0 ? 'nothing that it was decided on has changed' : `changed since:\n${list(changed)}`
  return `${head}\n${verdict}\n${since}`
}
