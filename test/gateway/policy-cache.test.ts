// Policies that are kept: what they save, and that no change of the registry is overlooked for longer than the bound.
import { env } from 'cloudflare:workers'
import { drizzle } from 'drizzle-orm/d1'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { FRESH_MS, PolicyCache } from '../../gateway/policy/policy-cache.ts'
import { adapter, allow, base, createHouse, type House, seed, toTenant } from './house.ts'

/** The bound that is promised for a revocation, wherever it was made. */
const PROMISED_MS = 2_000

let house: House
let key: { id: string; key: string }
/** Counts the round trips of a database. */
function counted() {
  let trips = 0
  const DB = {
    prepare: (sql: string) => count(env.DB.prepare(sql)),
    batch: (statements: { readonly original: D1PreparedStatement }[]) => {
      trips += 1
      return env.DB.batch(statements.map(({ original }) => original))
    },
  }
  type Counted = {
    readonly original: D1PreparedStatement
    bind(...values: unknown[]): Counted
    all(): unknown
    raw(): unknown
    run(): unknown
  }
  const count = (original: D1PreparedStatement): Counted => ({
    original,
    bind: (...values) => count(original.bind(...values)),
    all: () => {
      trips += 1
      return original.all()
    },
    raw: () => {
      trips += 1
      return original.raw()
    },
    run: () => {
      trips += 1
      return original.run()
    },
  })
  const take = () => {
    const seen = trips
    trips = 0
    return seen
  }
  return { db: drizzle(DB as unknown as D1Database), take }
}

beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme', { user: 'ada' })
})

describe('a policy', () => {
  const caller = () => ({ kind: 'key' as const, keyId: key.id })

  it('costs one round trip cold, none while it is fresh, one to learn that nothing changed', async () => {
    const { db, take } = counted()
    const cache = new PolicyCache(house.world.now)
    const first = await cache.load(db, caller())
    expect(take()).toBe(1)
    expect(await cache.load(db, caller())).toBe(first)
    expect(take()).toBe(0)
    house.clock.now += FRESH_MS
    expect(await cache.load(db, caller())).toBe(first)
    expect(take()).toBe(1)
    expect(await cache.load(db, caller())).toBe(first)
    expect(take()).toBe(0)
  })

  it('shares the registry of its tenant, which is read once', async () => {
    const { db } = counted()
    const cache = new PolicyCache(house.world.now)
    const other = await house.mint('acme')
    const [a, b] = [await cache.load(db, caller()), await cache.load(db, { kind: 'key', keyId: other.id })]
    expect(a?.policy?.registry.models.size).toBe(3)
    expect(b?.policy?.registry).toBe(a?.policy?.registry)
  })

  it('is not kept where it was read before a change that is known by then', async () => {
    const { db, take } = counted()
    const cache = new PolicyCache(house.world.now)
    const other = await house.mint('acme')
    await cache.load(db, { kind: 'key', keyId: other.id })
    // The read of the first key begins; meanwhile its tenant changes and the second key's request learns of it.
    const slow = cache.load(db, caller())
    await env.DB.prepare("UPDATE grants SET ends_at = NULL WHERE tenant_id = 'acme'").run()
    house.clock.now += FRESH_MS
    await Promise.all([slow, cache.load(db, { kind: 'key', keyId: other.id })])
    take()
    house.clock.now += FRESH_MS
    const loaded = await cache.load(db, caller())
    const fresh = await new PolicyCache(house.world.now).load(db, caller())
    expect(loaded?.registryVersion).toBe(fresh?.registryVersion)
  })
})

describe('a change by another gateway', () => {
  /** SQL that takes `red` away from the key, and SQL that gives it back. */
  const revocations: [string, string, string][] = [
    ['the key is disabled', 'UPDATE keys SET disabled = 1 WHERE id = ?', 'UPDATE keys SET disabled = 0 WHERE id = ?'],
    [
      'the key expires',
      'UPDATE keys SET expires_at = 1 WHERE id = ?',
      'UPDATE keys SET expires_at = NULL WHERE id = ?',
    ],
    [
      'the user',
      "UPDATE users SET disabled = 1 WHERE id = 'ada' AND ? <> ''",
      "UPDATE users SET disabled = 0 WHERE id = 'ada' AND ? <> ''",
    ],
    [
      'the tenant',
      "UPDATE tenants SET disabled = 1 WHERE id = 'acme' AND ? <> ''",
      "UPDATE tenants SET disabled = 0 WHERE id = 'acme' AND ? <> ''",
    ],
    [
      'the grant ends',
      "UPDATE grants SET ends_at = 1 WHERE tenant_id = 'acme' AND ? <> ''",
      "UPDATE grants SET ends_at = NULL WHERE tenant_id = 'acme' AND ? <> ''",
    ],
    [
      'the adapter',
      "UPDATE adapters SET disabled = 1 WHERE tenant_id = 'acme' AND ? <> ''",
      "UPDATE adapters SET disabled = 0 WHERE tenant_id = 'acme' AND ? <> ''",
    ],
    ['the base', "UPDATE bases SET disabled = 1 WHERE ? <> ''", "UPDATE bases SET disabled = 0 WHERE ? <> ''"],
    [
      'the model',
      "UPDATE models SET disabled = 1 WHERE tenant_id = 'acme' AND ? <> ''",
      "UPDATE models SET disabled = 0 WHERE tenant_id = 'acme' AND ? <> ''",
    ],
    [
      'a deny',
      `INSERT INTO grants (tenant_id, id, effect, actions, principal_kind, key_id, adapter_id, created_at) VALUES ('acme', 'no', 'deny', '["infer"]', 'key', ?, 'red', 0)`,
      "DELETE FROM grants WHERE id = 'no' AND ? <> ''",
    ],
  ]
  const status = async () => (await house.ask(key.key, 'red')).status

  beforeEach(async () => {
    house.clock.now += PROMISED_MS
    expect(await status()).toBe(200)
  })

  it.each(revocations)('holds within the promised time: %s', async (_what, revoke, restore) => {
    await env.DB.prepare(revoke).bind(key.id).run()
    house.clock.now += FRESH_MS
    expect([401, 404]).toContain(await status())
    await env.DB.prepare(restore).bind(key.id).run()
    house.clock.now += FRESH_MS
    expect(await status()).toBe(200)
  })

  it.each(revocations)(
    'holds at once where the clock was set back meanwhile, by an hour: %s',
    async (_what, revoke, restore) => {
      await env.DB.prepare(revoke).bind(key.id).run()
      house.clock.now -= 3_600_000
      expect([401, 404]).toContain(await status())
      await env.DB.prepare(restore).bind(key.id).run()
      house.clock.now += FRESH_MS
      expect(await status()).toBe(200)
    },
  )

  it('leaves half of the promised time to a slow database', () => {
    expect(FRESH_MS * 2).toBeLessThanOrEqual(PROMISED_MS)
  })

  it('through this gateway holds at once', async () => {
    await house.admin('PATCH', `/keys/${key.id}`, { disabled: true })
    expect(await status()).toBe(401)
    await house.admin('PATCH', `/keys/${key.id}`, { disabled: false })
    expect(await status()).toBe(200)
  })
})

describe('the epoch', () => {
  it('moves with every insert, update and delete of every table of the registry', async () => {
    const { results } = await env.DB.prepare(
      "SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%_epoch'",
    ).all<{ tbl_name: string; sql: string }>()
    const found = Map.groupBy(results, (row) => row.tbl_name)
    const tables = await env.DB.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all<{ name: string }>()
    // What requests write is no policy; every other table is one, also a table that is added later.
    const records = new Set([
      'd1_migrations',
      'policy_epochs',
      'key_uses',
      'audit',
      'usage',
      'assignments',
      'exposures',
      'outcomes',
      'shadows',
      'limit_leases',
      'limit_windows',
      'idempotency',
      'facts',
      'sqlite_sequence',
      '_cf_METADATA',
      '_cf_KV',
    ])
    const registry = tables.results.map(({ name }) => name).filter((name) => !records.has(name))
    expect(registry.length).toBeGreaterThan(14)
    for (const table of registry) {
      const acts = (found.get(table) ?? []).map(({ sql }) => /AFTER (INSERT|UPDATE|DELETE)/.exec(sql)?.[1]).sort()
      expect([table, acts]).toEqual([table, ['DELETE', 'INSERT', 'UPDATE']])
    }
  })

  it('is one counter: a later change of any tenant has a higher one', async () => {
    const epochs = async () => {
      const { results } = await env.DB.prepare('SELECT tenant_id, epoch FROM policy_epochs').all<{
        tenant_id: string
        epoch: number
      }>()
      return new Map(results.map((row) => [row.tenant_id, row.epoch]))
    }
    const before = await epochs()
    await house.admin('PUT', '/tenants/zeta/roles/late', {})
    await house.admin('PUT', '/bases/'.concat('e'.repeat(64)), {})
    const after = await epochs()
    const highest = Math.max(...before.values())
    expect(after.get('acme')).toBe(before.get('acme'))
    expect(after.get('zeta')).toBeGreaterThan(highest)
    expect(after.get('')).toBeGreaterThan(after.get('zeta') ?? 0)
  })

  it('is not moved by inference', async () => {
    const read = () => env.DB.prepare('SELECT max(epoch) AS epoch FROM policy_epochs').first<{ epoch: number }>()
    const before = await read()
    await house.admin('PUT', '/tenants/acme/grants/plain', allow(toTenant, base))
    const granted = await read()
    expect(granted?.epoch).toBeGreaterThan(before?.epoch ?? 0)
    expect((await house.ask(key.key, 'plain')).status).toBe(200)
    expect(await read()).toEqual(granted)
  })
})
