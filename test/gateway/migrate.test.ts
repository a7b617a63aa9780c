// Migrations with wrangler's bookkeeping, and the first admin key.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parseKey } from '../../gateway/identity/key-format.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'

const names = async () =>
  (await env.DB.prepare('SELECT name FROM d1_migrations ORDER BY id').all<{ name: string }>()).results.map(
    (row) => row.name,
  )

describe('migrations', () => {
  it('continue where wrangler’s bookkeeping ends, and do nothing the second time', async () => {
    const applied = (await names()).map((name) => ({ name, sql: 'this is not run' }))
    expect(applied.map(({ name }) => name)).toEqual([
      '0000_registry.sql',
      '0001_write-once.sql',
      '0002_compiles.sql',
      '0003_mixed_usage.sql',
      '0004_authorisation.sql',
      '0005_policy-epoch.sql',
      '0006_limits.sql',
      '0007_audit-chain.sql',
      '0008_idempotency.sql',
      '0009_decision-facts.sql',
      '0010_experiments.sql',
      '0011_experiment-rules.sql',
      '0012_auto-models.sql',
      '0013_upstreams.sql',
      '0014_limit-leases.sql',
    ])
    const next = [
      { name: '9001_b.sql', sql: 'INSERT INTO t VALUES (1)' },
      { name: '9000_a.sql', sql: 'CREATE TABLE t (x);\n--> statement-breakpoint\nCREATE INDEX i ON t (x);\n' },
    ]
    expect(await applyMigrations(env.DB, [...applied, ...next])).toEqual(['9000_a.sql', '9001_b.sql'])
    expect(await applyMigrations(env.DB, [...applied, ...next])).toEqual([])
    expect((await names()).slice(-2)).toEqual(['9000_a.sql', '9001_b.sql'])
  })

  it('are applied and recorded, or neither', async () => {
    const before = await names()
    const broken = { name: '9100_c.sql', sql: 'CREATE TABLE half (x);\n--> statement-breakpoint\nCREATE NONSENSE' }
    await expect(applyMigrations(env.DB, [broken])).rejects.toThrow()
    expect(await names()).toEqual(before)
    expect(await env.DB.prepare("SELECT 1 FROM sqlite_master WHERE name = 'half'").first()).toBeNull()
  })
})

describe('bootstrap', () => {
  it('makes an admin key that is stored as a MAC and audited', async () => {
    const peppers = parsePeppers(env.PEPPERS)
    if (peppers === null) throw new Error('unusable')
    const key = await bootstrapAdminKey(env.DB, { environment: 'test', peppers, now: 5 })
    const id = parseKey(key, 'test')
    const row = await env.DB.prepare('SELECT * FROM keys WHERE id = ?').bind(id).first()
    expect(row).toMatchObject({ class: 'admin', tenant_id: null, disabled: 0, last4: key.slice(-4) })
    expect(JSON.stringify(row)).not.toContain(key.split('_')[3])
    expect(await env.DB.prepare('SELECT * FROM audit WHERE resource = ?').bind(id).first()).toMatchObject({
      actor: 'bootstrap',
    })
  })
})
