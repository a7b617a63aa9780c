// `sidepath audit verify`: follows the chain of a gateway's audit trail, and names the first row that breaks it.
import { z } from 'zod'
import { follow, type Head, START } from '../gateway/audit-chain.ts'
import { askGateway } from './ask-gateway.ts'
import { UserError } from './fail.ts'

export interface AuditVerifyOptions {
  readonly gateway: string
  readonly expect?: string
  readonly json?: boolean
}

/** Exit 3: the trail is broken, which is an answer and no failure of ours. */
const EXIT_BROKEN = 3
const PAGE_ROWS = 1_000

const Digest = z.string().nullable()
const Rows = z.object({
  data: z.array(
    z.object({
      id: z.int().min(1),
      at: z.int(),
      actor: z.string(),
      action: z.string(),
      resource: z.string(),
      beforeDigest: Digest,
      afterDigest: Digest,
      previousHash: Digest,
      hash: Digest,
    }),
  ),
})

type Verdict =
  | { readonly intact: true; readonly rows: number; readonly head: string }
  | { readonly intact: false; readonly rows: number; readonly row: number; readonly why: string }

export async function auditVerifyCommand({ gateway, expect, json }: AuditVerifyOptions): Promise<void> {
  const expected = expect === undefined ? undefined : parseHead(expect)
  const verdict = await verify(gateway, expected)
  process.stdout.write(`${json ? JSON.stringify(verdict) : describe(verdict)}\n`)
  if (!verdict.intact) process.exitCode = EXIT_BROKEN
}

/** A chain shows what was changed inside it, not that its end was cut off: a head that was noted earlier does. */
function parseHead(text: string): Pick<Head, 'id' | 'hash'> {
  const found = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text)
  if (found === null) {
    throw new UserError(
      `--expect "${text}" is no head; give it as this command prints it: the id, a colon, 64 hex digits.`,
    )
  }
  return { id: Number(found[1]), hash: found[2] ?? '' }
}

async function verify(gateway: string, expected: Pick<Head, 'id' | 'hash'> | undefined): Promise<Verdict> {
  let head = START
  let rows = 0
  let met = expected === undefined
  for (;;) {
    const page = await askGateway(gateway, `/audit?after=${head.id}&limit=${PAGE_ROWS}`, Rows)
    if (page === null) throw new UserError(`the gateway at ${gateway} has no audit trail; is it one of this version?`)
    for (const row of page.data) {
      if (row.id <= head.id)
        throw new UserError('the gateway does not page its audit trail; is it one of this version?')
      const step = await follow(head, row)
      if (!step.ok) return { intact: false, rows, row: step.id, why: step.why }
      head = step.head
      rows++
      if (expected?.id !== head.id) continue
      if (expected.hash !== head.hash) {
        return {
          intact: false,
          rows,
          row: head.id,
          why: 'its hash is not the expected one: the trail was written anew',
        }
      }
      met = true
    }
    if (page.data.length === 0) break
  }
  if (!met) {
    return {
      intact: false,
      rows,
      row: head.id + 1,
      why: `the trail ends before row ${expected?.id}, which was expected`,
    }
  }
  return { intact: true, rows, head: `${head.id}:${head.hash}` }
}

function describe(verdict: Verdict): string {
  if (!verdict.intact) return `broken at row ${verdict.row}: ${verdict.why}; ${verdict.rows} rows before it are intact`
  return `intact: ${verdict.rows} rows, head ${verdict.head}`
}
