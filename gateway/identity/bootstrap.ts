// The first admin key. There is no default one: whoever holds the database and the pepper makes it.

import type { SqlDatabase } from '../database/migrate.ts'
import { mintKey, type Peppers } from './keys.ts'

/** The key, which is stored nowhere. Each call adds one, which is also the way back in after the last was lost. */
export async function bootstrapAdminKey(
  db: SqlDatabase,
  options: { readonly environment: string; readonly peppers: Peppers; readonly now: number },
): Promise<string> {
  const { environment, peppers, now } = options
  const { id, key, mac, pepperVersion, last4 } = mintKey(environment, peppers)
  await db.batch([
    db
      .prepare(
        "INSERT INTO keys (id, class, mac, pepper_version, last4, disabled, created_at) VALUES (?, 'admin', ?, ?, ?, 0, ?)",
      )
      .bind(id, mac, pepperVersion, last4, now),
    db.prepare("INSERT INTO audit (at, actor, action, resource) VALUES (?, 'bootstrap', 'key.mint', ?)").bind(now, id),
  ])
  return key
}
