// Limits of a tenant, by whom they are about; and those that one request counts against.
import type { limits } from '../database/schema.ts'
import type { Subject } from '../policy/resolve-grants.ts'
import type { Running } from './running.ts'

export type Metric = 'requests' | 'tokens' | 'cost'

export interface Limit {
  readonly id: string
  readonly metric: Metric
  readonly window: 'minute' | 'day'
  /** Requests, tokens or micro-units of money in one window. */
  readonly amount: number
}

/** A limit with the one whose count it is: empty where the limit has a single count. */
export interface AppliedLimit extends Limit {
  readonly subject: string
}

/** By scope and id, as `nameOf` spells them. */
export type Limits = ReadonlyMap<string, readonly Limit[]>

/** Windows begin with the minute and, in UTC, with the day: whoever counts agrees on them without asking. */
export const WINDOW_MS: Readonly<Record<Limit['window'], number>> = { minute: 60_000, day: 86_400_000 }

type Row = typeof limits.$inferSelect

const nameOf = (scope: Row['scope'], id: string | null): string => `${scope} ${id ?? ''}`

export function readLimits(rows: readonly Row[]): Limits {
  const read = rows.map(({ scope, keyId, userId, adapterId, id, metric, window, amount }) => ({
    name: nameOf(scope, keyId ?? userId ?? adapterId),
    limit: { id, metric, window, amount },
  }))
  const grouped = Map.groupBy(read, ({ name }) => name)
  return new Map([...grouped].map(([name, group]) => [name, group.map(({ limit }) => limit)]))
}

/** A mix counts against the limits of each adapter in it, once each. */
function adaptersOf(target: Running): readonly string[] {
  if (target.kind === 'base') return []
  if (target.kind === 'adapter') return [target.id]
  return [...new Set(target.parts.map(({ adapter }) => adapter.id))]
}

export function limitsOn(limits: Limits, subject: Subject, target: Running): readonly AppliedLimit[] {
  if (limits.size === 0) return []
  const found: AppliedLimit[] = []
  const add = (scope: Row['scope'], id: string | null, counted: string) => {
    for (const limit of limits.get(nameOf(scope, id)) ?? []) found.push({ ...limit, subject: counted })
  }
  add('tenant', null, '')
  for (const [kind, id] of [
    ['key', subject.keyId],
    ['user', subject.userId],
    ...adaptersOf(target).map((id) => ['adapter', id] as const),
  ] as const) {
    if (id === null) continue
    add(kind, id, '')
    add(`each-${kind}`, null, id)
  }
  return found
}
