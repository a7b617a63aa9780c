// The usage rows of a soak, against the upstreams' own logs and what the callers got.
import { readFileSync } from 'node:fs'
import Database from 'libsql'

export interface Answered {
  /** Empty: the connection ended before there was an answer. */
  readonly id: string
  readonly status: number
  /** To the last byte. */
  readonly isWhole: boolean
  readonly hungUp: boolean
}

interface Given {
  readonly prompt: number
  readonly completion: number
}

interface UsageRow {
  readonly id: string
  readonly status: 'open' | 'settled' | 'aborted' | 'failed'
  readonly prompt: number | null
  readonly completion: number | null
  readonly charge: string | null
}

interface Found {
  readonly rows: readonly { readonly what: string; readonly value: number; readonly isError?: true }[]
}

export function compareUsage(database: string, logs: readonly string[], answers: readonly Answered[]): Found {
  const asked = new Set<string>()
  /** By request: an answer that was given to its end. One that is cut goes to no second backend. */
  const whole = new Map<string, Given>()
  let cut = 0
  for (const line of logs.flatMap((log) => readFileSync(log, 'utf8').split('\n'))) {
    const [what, id = '', prompt, completion] = line.split(' ')
    if (what === 'asked') asked.add(id)
    if (what === 'whole') whole.set(id, { prompt: Number(prompt), completion: Number(completion) })
    if (what === 'cut' || what === 'gone') cut += 1
  }
  const db = new Database(database)
  const columns = 'request_id AS id, status, prompt_tokens AS prompt, completion_tokens AS completion, charge'
  const rows = db.prepare(`SELECT ${columns} FROM usage`).all() as UsageRow[]
  const [held] = db.prepare('SELECT coalesce(sum(held), 0) AS held FROM limit_windows').all() as { held: number }[]
  const [counted] = db
    .prepare("SELECT coalesce(sum(used), 0) AS used FROM limit_windows WHERE limit_id = 'requests'")
    .all() as { used: number }[]
  db.close()
  const usage = new Map(rows.map((row) => [row.id, row]))
  const count = (status: UsageRow['status']) => rows.filter((row) => row.status === status).length

  const isAsGiven = ({ id, prompt, completion }: UsageRow) => {
    const given = whole.get(id)
    return given !== undefined && given.prompt === prompt && given.completion === completion
  }
  const settled = rows.filter(({ status }) => status === 'settled')
  const answeredWhole = answers.filter(({ isWhole }) => isWhole)
  const tokens = (of: readonly (Given | UsageRow | undefined)[]) =>
    of.reduce((sum, one) => sum + (one?.prompt ?? 0) + (one?.completion ?? 0), 0)
  return {
    rows: [
      { what: 'answered whole', value: answeredWhole.length },
      { what: 'hung up on', value: answers.filter(({ hungUp }) => hungUp).length },
      { what: 'streams that ended early at the backend', value: cut },
      { what: 'answers of 5xx', value: answers.filter(({ status }) => status >= 500).length },
      { what: 'connections that ended without an answer', value: answers.filter(({ id }) => id === '').length },
      { what: 'usage rows settled', value: settled.length },
      { what: 'usage rows aborted', value: count('aborted') },
      { what: 'usage rows failed', value: count('failed') },
      { what: 'usage rows left open', value: count('open'), isError: true },
      { what: 'requests that a backend saw', value: asked.size },
      { what: 'of them without a usage row', value: [...asked].filter((id) => !usage.has(id)).length, isError: true },
      {
        what: 'whole answers whose row is not settled with the tokens that the backend gave',
        value: answeredWhole.filter(({ id }) => {
          const row = usage.get(id)
          return row?.status !== 'settled' || !isAsGiven(row)
        }).length,
        isError: true,
      },
      {
        what: 'settled rows that no backend wrote down so',
        value: settled.filter((row) => !isAsGiven(row)).length,
        isError: true,
      },
      {
        what: 'tokens settled, less those that the backends wrote down for the same requests',
        value: tokens(settled) - tokens(settled.map(({ id }) => whole.get(id))),
        isError: true,
      },
      {
        what: 'requests counted against limits, less usage rows',
        value: (counted?.used ?? 0) - rows.length,
        isError: true,
      },
      { what: 'tokens that are still held of a limit', value: held?.held ?? Number.NaN, isError: true },
    ],
  }
}
