// A database of an older version: what was granted and used before a migration means the same after it.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { asc } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { describe, expect, it } from 'vitest'
import { openLibsql } from '../../cli/gateway/libsql-database.ts'
import { readMigrations } from '../../cli/gateway/migrations.ts'
import { follow, START } from '../../gateway/audit-chain.ts'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { audit } from '../../gateway/database/records.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'

describe('a database of before acts and groups', () => {
  it('keeps its grants: an allow was about use, a deny about everything; and its usage, with the user of the key', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sidepath-'))
    const { db, close } = await openLibsql(`file:${join(folder, 'gateway.db')}`)
    const migrations = await readMigrations()
    await applyMigrations(
      db,
      migrations.filter(({ name }) => name < '0004'),
    )
    for (const sql of [
      "INSERT INTO tenants VALUES ('acme', 10, 0, 0)",
      "INSERT INTO users VALUES ('acme', 'ada', 0, 0)",
      "INSERT INTO bases VALUES ('b', 0, 0)",
      "INSERT INTO keys (id, class, tenant_id, user_id, mac, pepper_version, last4, disabled, created_at) VALUES ('k', 'user', 'acme', 'ada', 'm', '1', 'xxxx', 0, 0)",
      "INSERT INTO grants (tenant_id, id, effect, principal_kind, base_digest, created_at) VALUES ('acme', 'yes', 'allow', 'tenant', 'b', 0)",
      "INSERT INTO grants (tenant_id, id, effect, principal_kind, user_id, base_digest, created_at) VALUES ('acme', 'no', 'deny', 'user', 'ada', 'b', 0)",
      "INSERT INTO usage (request_id, tenant_id, key_id, model, base_digest, grant_id, receipt, status, created_at) VALUES ('r', 'acme', 'k', 'm', 'b', 'yes', 'x', 'settled', 0)",
    ]) {
      await db.prepare(sql).run()
    }
    await applyMigrations(db, migrations)
    const { results } = await db.prepare('SELECT id, actions FROM grants ORDER BY id').all()
    expect(results).toEqual([
      { id: 'no', actions: '["infer","list","train","merge","promote","admin"]' },
      { id: 'yes', actions: '["infer","list"]' },
    ])
    expect((await db.prepare('SELECT key_id, user_id FROM usage').all()).results).toEqual([
      { key_id: 'k', user_id: 'ada' },
    ])
    // The triggers of the rebuilt table are there again.
    await expect(db.prepare('DELETE FROM usage').run()).rejects.toThrow('append-only')
    await expect(db.prepare("UPDATE usage SET status = 'failed'").run()).rejects.toThrow('settled once')
    close()
    await rm(folder, { recursive: true })
  })
})

describe('an audit trail of before it was a chain', () => {
  it('is covered by the first row that is chained', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sidepath-'))
    const { db, close } = await openLibsql(`file:${join(folder, 'gateway.db')}`)
    const migrations = await readMigrations()
    await applyMigrations(
      db,
      migrations.filter(({ name }) => name < '0007'),
    )
    for (const at of [1, 2, 4]) {
      await db.prepare(`INSERT INTO audit (id, at, actor, action, resource) VALUES (${at}, ${at}, 'a', 'b', 'c')`).run()
    }
    await applyMigrations(db, migrations)
    const peppers = parsePeppers(JSON.stringify({ current: '1', keys: { 1: btoa('x'.repeat(32)) } }))
    if (peppers === null) throw new Error('unusable')
    await bootstrapAdminKey(db, { environment: 'test', peppers, now: 5 })
    await bootstrapAdminKey(db, { environment: 'test', peppers, now: 6 })
    const rows = await drizzle(db).select().from(audit).orderBy(asc(audit.id))
    expect(rows.map(({ id, hash }) => [id, hash !== null])).toEqual([
      [1, false],
      [2, false],
      [4, false],
      [5, true],
      [6, true],
    ])
    let head = START
    for (const row of rows) {
      const step = await follow(head, row)
      expect(step).toMatchObject({ ok: true })
      if (step.ok) head = step.head
    }
    close()
    await rm(folder, { recursive: true })
  })
})
