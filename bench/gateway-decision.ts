// The decision alone, in process: from the text of a key to the arm that runs, on 10,000 keys, 1,000 adapters and
// 100,000 grants; and how many round trips to the database a cold one takes.
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { drizzle } from 'drizzle-orm/d1'
import { openLibsql } from '../cli/gateway/libsql-database.ts'
import { readMigrations } from '../cli/gateway/migrations.ts'
import { applyMigrations } from '../gateway/database/migrate.ts'
import { parseKey } from '../gateway/identity/key-format.ts'
import { mintKey, parsePeppers, verifyKey } from '../gateway/identity/keys.ts'
import { chooseTarget } from '../gateway/infer/choose-target.ts'
import { isLive } from '../gateway/policy/load-policy.ts'
import { PolicyCache } from '../gateway/policy/policy-cache.ts'
import { quantile, type Row } from './record.ts'

const [KEYS, ADAPTERS, GRANTS] = [10_000, 1_000, 100_000]
const ROLES = 100
const SAMPLES = 20_000
const COLD = 10
/** Spread over all keys. A policy of this size takes tens of milliseconds to read, and ten thousand of them minutes. */
const WARM_KEYS = 200
const ENVIRONMENT = 'local'
const NOW = Date.now()
const digest = (text: string) => createHash('sha256').update(text).digest('hex')

type Database = Awaited<ReturnType<typeof openLibsql>>['db']

export async function measureDecision(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), 'sidepath-bench-decision-'))
  const opened = await openLibsql(`file:${join(folder, 'gateway.db')}`)
  try {
    await applyMigrations(opened.db, await readMigrations())
    const peppers = parsePeppers(JSON.stringify({ current: '1', keys: { 1: randomBytes(32).toString('base64') } }))
    if (peppers === null) throw new Error('the peppers of the benchmark are not usable')
    const keys = await seed(opened.db, () => mintKey(ENVIRONMENT, peppers))
    let trips = 0
    const db = drizzle(counted(opened.db, () => trips++))
    let policies = new PolicyCache(Date.now)

    const decide = async (text: string, name: string) => {
      const keyId = parseKey(text, ENVIRONMENT)
      if (keyId === null) throw new Error('a key of the benchmark has no good form')
      const loaded = await policies.load(db, { kind: 'key', keyId })
      const now = Date.now()
      if (!loaded?.key || !loaded.policy || !verifyKey(text, loaded.key, peppers, now) || !isLive(loaded.key, now)) {
        throw new Error('a key of the benchmark was refused')
      }
      const choice = await chooseTarget(db, loaded.policy, { name, mix: null }, now)
      if (choice === undefined) throw new Error('a key of the benchmark has no model')
    }
    const keyAt = (at: number) => keys[at % keys.length] as string

    const cold: number[] = []
    const coldTrips: number[] = []
    for (let i = 0; i < COLD; i++) {
      policies = new PolicyCache(Date.now)
      trips = 0
      const started = performance.now()
      await decide(keyAt(i * 7), 'direct')
      cold.push(1000 * (performance.now() - started))
      coldTrips.push(trips)
    }
    if (Math.max(...coldTrips) !== 1) throw new Error(`a cold decision took ${Math.max(...coldTrips)} round trips`)

    policies = new PolicyCache(Date.now)
    const warmKeys = keys.filter((_, at) => at % (KEYS / WARM_KEYS) === 0)
    for (const key of warmKeys) await decide(key, 'assistant')
    const warm: number[] = []
    for (let i = 0; i < SAMPLES; i++) {
      const started = performance.now()
      await decide(warmKeys[(i * 13) % WARM_KEYS] as string, 'assistant')
      warm.push(1000 * (performance.now() - started))
    }
    const what = `decision, key → arm, ${KEYS} keys, ${ADAPTERS} adapters, ${GRANTS} grants`
    const micro = (samples: readonly number[], q: number) => `${quantile(samples, q).toFixed(1)} µs`
    return [
      // Too many for a file; every hundredth.
      {
        what: `${what}, ${WARM_KEYS} of the keys in turn: warm p50`,
        value: micro(warm, 0.5),
        samples: warm.filter((_, at) => at % 100 === 0),
      },
      { what: `${what}: warm p99`, value: micro(warm, 0.99) },
      { what: `${what}: cold p50 (libSQL on a file)`, value: micro(cold, 0.5), samples: cold },
      { what: `${what}: round trips of a cold decision`, value: '1', samples: coldTrips },
    ]
  } finally {
    opened.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The same database; `count` is told of every call that crosses to it. */
function counted(db: Database, count: () => void): Database {
  const wrap = (statement: object): object =>
    new Proxy(statement, {
      get(of, name) {
        const value: unknown = Reflect.get(of, name, of)
        if (typeof value !== 'function') return value
        return (...args: unknown[]) => {
          if (name === 'bind') return wrap(value.apply(of, args))
          count()
          return value.apply(of, args)
        }
      },
    })
  return {
    prepare: (sql: string) => wrap(db.prepare(sql)),
    batch: (statements: never[]) => {
      count()
      return db.batch(statements)
    },
  } as unknown as Database
}

/** Each role may use ten adapters by many grants; each key is of a user with one role. */
async function seed(db: Database, mint: () => ReturnType<typeof mintKey>): Promise<string[]> {
  const insert = async (table: string, columns: readonly string[], all: readonly (readonly unknown[])[]) => {
    const sql = `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`
    for (let at = 0; at < all.length; at += 5_000) {
      await db.batch(all.slice(at, at + 5_000).map((values) => db.prepare(sql).bind(...values)))
    }
  }
  const many = <T>(count: number, make: (at: number) => T): T[] => Array.from({ length: count }, (_, at) => make(at))
  const base = digest('base')
  await insert('bases', ['digest', 'disabled', 'created_at'], [[base, 0, NOW]])
  await insert('tenants', ['id', 'max_tokens', 'disabled', 'created_at'], [['acme', 512, 0, NOW]])
  await insert(
    'roles',
    ['tenant_id', 'id', 'disabled', 'created_at'],
    many(ROLES, (at) => ['acme', `r${at}`, 0, NOW]),
  )
  await insert(
    'users',
    ['tenant_id', 'id', 'disabled', 'created_at'],
    many(KEYS, (at) => ['acme', `u${at}`, 0, NOW]),
  )
  await insert(
    'user_roles',
    ['tenant_id', 'user_id', 'role_id'],
    many(KEYS, (at) => ['acme', `u${at}`, `r${at % ROLES}`]),
  )
  await insert(
    'adapters',
    ['tenant_id', 'id', 'name', 'version', 'digest', 'base_digest', 'disabled', 'created_at'],
    many(ADAPTERS, (at) => ['acme', `a${at}`, `a${at}`, 1, digest(`a${at}`), base, 0, NOW]),
  )
  // Every role: the two arms. Every key: eight adapters of its own. The rest: roles over all adapters.
  const grant = (id: number, role: number | null, user: number | null, adapter: number) => [
    ...['acme', `g${id}`, 'allow', '["infer","list"]', role === null ? 'user' : 'role'],
    ...[user === null ? null : `u${user}`, role === null ? null : `r${role}`, `a${adapter}`, NOW],
  ]
  const arms = many(2 * ROLES, (at) => grant(at, at >> 1, null, at & 1))
  const ofUsers = many(8 * KEYS, (at) => grant(arms.length + at, null, at % KEYS, 2 + ((at * 7) % (ADAPTERS - 2))))
  const rest = many(GRANTS - arms.length - ofUsers.length, (at) =>
    grant(arms.length + ofUsers.length + at, at % ROLES, null, 2 + ((at * 11) % (ADAPTERS - 2))),
  )
  await insert(
    'grants',
    ['tenant_id', 'id', 'effect', 'actions', 'principal_kind', 'user_id', 'role_id', 'adapter_id', 'created_at'],
    [...arms, ...ofUsers, ...rest],
  )
  await insert(
    'experiments',
    ['tenant_id', 'id', 'seed', 'bucket_version', 'status', 'created_at'],
    [['acme', 'colours', 'acme/colours', 1, 'running', NOW]],
  )
  await insert(
    'arms',
    ['tenant_id', 'experiment_id', 'id', 'position', 'weight', 'adapter_id'],
    many(2, (at) => ['acme', 'colours', `arm${at}`, at, 5_000, `a${at}`]),
  )
  await insert(
    'models',
    ['tenant_id', 'name', 'adapter_id', 'experiment_id', 'disabled', 'created_at'],
    [
      ['acme', 'direct', 'a0', null, 0, NOW],
      ['acme', 'assistant', null, 'colours', 0, NOW],
      ...many(ADAPTERS, (at) => ['acme', `m${at}`, `a${at}`, null, 0, NOW]),
    ],
  )
  const minted = many(KEYS, mint)
  await insert(
    'keys',
    ['id', 'class', 'tenant_id', 'user_id', 'mac', 'pepper_version', 'last4', 'disabled', 'created_at'],
    minted.map(({ id, mac, pepperVersion, last4 }, at) => [
      ...[id, 'user', 'acme', `u${at}`, mac, pepperVersion, last4, 0, NOW],
    ]),
  )
  return minted.map(({ key }) => key)
}
