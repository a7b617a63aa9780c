// Every change of the registry and its audit row, in one batch: neither exists without the other.
import type { BatchItem } from 'drizzle-orm/batch'
import { appendAudit } from '../append-audit.ts'
import { adminKeyId, type GatewayContext } from '../context.ts'
import { digestRecord } from '../digest.ts'
import { badRequest } from '../errors.ts'

type Row = Readonly<Record<string, unknown>>

export interface Change {
  /** For example `grant.put`. */
  readonly action: string
  /** Path of what changes, for example `acme/support-v2`. */
  readonly resource: string
  readonly before: Row | undefined
  readonly after: Row | undefined
  readonly writes: readonly BatchItem<'sqlite'>[]
  /** Left out: the admin key that asked. */
  readonly actor?: string
}

const digestOf = (row: Row | undefined) => (row === undefined ? null : digestRecord(row))

/** The caller's mistake that a constraint caught, in words; null where it is ours. */
function explain(error: unknown): Error | null {
  const text =
    error instanceof Error ? `${error.message} ${error.cause instanceof Error ? error.cause.message : ''}` : ''
  if (text.includes('FOREIGN KEY constraint failed')) {
    return badRequest('The request names something that does not exist in this tenant.', 'unknown_reference')
  }
  if (text.includes('UNIQUE constraint failed')) {
    return badRequest('Another resource already has this name, version or address.', 'already_exists')
  }
  if (text.includes('another verdict was given') || text.includes('the arm is stopped already')) {
    return badRequest('The experiment was changed meanwhile; read it and decide again.', 'changed_meanwhile')
  }
  return null
}

export async function recordChange(c: GatewayContext, change: Change): Promise<void> {
  const db = c.get('db')
  const { action, resource } = change
  const entry = {
    at: c.get('world').now(),
    actor: change.actor ?? adminKeyId(c),
    action,
    resource,
    beforeDigest: await digestOf(change.before),
    afterDigest: await digestOf(change.after),
  }
  try {
    await appendAudit(db, entry, change.writes)
    c.get('policies').forget()
  } catch (error) {
    throw explain(error) ?? error
  }
}

export const immutable = (what: string) =>
  badRequest(`${what} cannot be changed once it is there; register it under another id.`, 'immutable')
