// The first admin key. There is no default one: whoever holds the database and the pepper makes it.

import { type AnyD1Database, drizzle } from 'drizzle-orm/d1'
import { appendAudit } from '../append-audit.ts'
import type { SqlDatabase } from '../database/migrate.ts'
import { keys } from '../database/schema.ts'
import { mintKey, type Peppers } from './keys.ts'

/** The key, which is stored nowhere. Each call adds one, which is also the way back in after the last was lost. */
export async function bootstrapAdminKey(
  db: SqlDatabase,
  options: { readonly environment: string; readonly peppers: Peppers; readonly now: number },
): Promise<string> {
  const { environment, peppers, now } = options
  const { id, key, mac, pepperVersion, last4 } = mintKey(environment, peppers)
  const orm = drizzle(db as unknown as AnyD1Database)
  const entry = {
    at: now,
    actor: 'bootstrap',
    action: 'key.mint',
    resource: id,
    beforeDigest: null,
    afterDigest: null,
  }
  const row = { id, class: 'admin', mac, pepperVersion, last4, disabled: false, createdAt: now } as const
  await appendAudit(orm, entry, [orm.insert(keys).values(row)])
  return key
}
