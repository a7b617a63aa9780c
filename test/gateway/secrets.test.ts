// Nothing secret in a log line or an answer.
import { env } from 'cloudflare:workers'
import { DrizzleQueryError } from 'drizzle-orm/errors'
import { beforeAll, describe, expect, it } from 'vitest'
import { errorFields, log } from '../../gateway/log.ts'
import { FRESH_MS } from '../../gateway/policy/policy-cache.ts'
import { adapter, allow, createHouse, type House, seed, toTenant } from './house.ts'

describe('secrets (invariant 9)', () => {
  let house: House
  let key: { id: string; key: string }
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
    key = await house.mint('acme')
  })

  it('are in no log line and no answer, whatever is asked and whatever fails', async () => {
    const texts: string[] = []
    const keep = (reply: { text: string; headers: Headers }) =>
      texts.push(reply.text, JSON.stringify([...reply.headers]))
    keep(await house.ask(key.key, 'red'))
    const prompt = 'words that are between the caller and the model'
    keep(await house.ask(key.key, 'red', { stream: true, prompt }))
    house.backend.say('words that are between the model and the caller')
    keep(await house.ask(key.key, 'red', { prompt: 7, note: prompt }))
    await house.ask(key.key, 'red', { prompt })
    house.backend.say(null)
    keep(await house.ask(key.key, key.key))
    keep(await house.call('GET', `/v1/models?key=${key.key}`, key.key))
    keep(await house.call('GET', '/v1/nowhere', key.key))
    keep(await house.call('POST', '/v1/completions', key.key, '{'))
    house.backend.fail('one.test', { status: 500, body: { capability: 'x' } })
    keep(await house.ask(key.key, 'red'))
    const broken = {
      ...env,
      DB: {
        prepare: () => {
          throw new Error(`near "${key.key}": syntax error`)
        },
      },
    }
    keep(await house.call('GET', '/v1/models', key.key, undefined, broken))
    const lines = house.logged().join('\n')
    expect(lines).toContain('"event":"request"')
    const capabilities = house.backend.seen.map(
      (seen) => seen.headers.get('authorization')?.replace('Bearer ', '') ?? '',
    )
    const secrets = [
      key.key.split('_')[3] ?? '',
      house.adminKey.split('_')[3] ?? '',
      env.CAPABILITY_SECRET,
      ...Object.values(JSON.parse(env.PEPPERS).keys as Record<string, string>),
      ...capabilities,
    ]
    expect(lines).not.toMatch(/words that are between/)
    for (const secret of secrets) {
      expect(secret.length).toBeGreaterThan(20)
      expect(lines).not.toContain(secret)
      // The caller's own words come back in the 404: that one answer is for the caller who sent them.
      for (const text of texts.filter((candidate) => !candidate.includes('model_not_found')))
        expect(text).not.toContain(secret)
    }
  })

  it('are not let out by drizzle, whose message holds the SQL and every parameter', async () => {
    const parameter = 'the-parameter'
    const error = new DrizzleQueryError(
      'select secret_column from keys where mac = ?',
      [parameter],
      new Error('D1_ERROR: no such column: SQLITE_ERROR'),
    )
    expect(error.message).toContain(parameter)
    const fields = errorFields(error)
    expect(fields).toMatchObject({ error: 'DrizzleQueryError', cause: 'Error', sqlite: 'SQLITE_ERROR' })
    expect(JSON.stringify(fields)).not.toContain(parameter)
    expect(JSON.stringify(fields)).not.toContain('secret_column')
  })

  it('make a database failure a 503 that says nothing', async () => {
    const broken = {
      ...env,
      DB: {
        prepare: (sql: string) => env.DB.prepare(sql.replace(/from "(?:keys|policy_epochs)"/, 'from "no_such_table"')),
        batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
      },
    }
    // What was read a moment ago is not believed any longer.
    house.clock.now += FRESH_MS
    for (const [path, credential] of [
      ['/v1/models', key.key],
      ['/admin/tenants', house.adminKey],
    ] as const) {
      const reply = await house.call('GET', path, credential, undefined, broken)
      expect([reply.status, reply.text]).toEqual([
        503,
        '{"error":{"message":"The gateway cannot decide now. Try again.","type":"api_error","param":null,"code":"database_unavailable"}}',
      ])
    }
    expect(house.logged().join('\n')).not.toContain('no_such_table')
  })

  it('are redacted where a line holds something that looks like one', () => {
    log('test', { note: `Bearer ${key.key}`, token: 'eyJhbGciOi.eyJpc3MiOi.c2ln' })
    const line = house.logged().at(-1) ?? ''
    expect(JSON.parse(line)).toEqual({ event: 'test', note: 'Bearer [redacted]', token: '[redacted]' })
  })
})
