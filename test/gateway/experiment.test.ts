// Experiments: split, stickiness, re-authorisation, exposures.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { hashBucket } from '../../gateway/experiment/hash-bucket.ts'
import { adapter, allow, BASE, base, createHouse, deny, digest, type House, seed, toTenant } from './house.ts'

let house: House
let round = 0
/** The experiment and model of this test; D1 is shared by the file. */
let name = ''

const rowsOf = async (table: string) =>
  (await env.DB.prepare(`SELECT * FROM ${table} WHERE experiment_id = ?`).bind(name).all()).results
const textOf = async (key: string) => {
  const reply = await house.ask(key, name)
  return reply.status === 200 ? reply.json.choices[0].text : reply.status
}
const grant = (id: string, body: object) => house.admin('PUT', `/tenants/acme/grants/${id}`, body)
const mintFor = async (user: string) => {
  await house.admin('PUT', `/tenants/acme/users/${user}`, {})
  return (await house.mint('acme', { user })).key
}

beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  name = `exp-${++round}`
  await house.admin('PUT', `/tenants/acme/experiments/${name}`, {
    arms: [
      { id: 'control', weight: 5000, adapter: 'red' },
      { id: 'treatment', weight: 5000, adapter: 'blue' },
    ],
  })
  await house.admin('PUT', `/tenants/acme/models/${name}`, { experiment: name })
  await house.admin('PATCH', `/tenants/acme/experiments/${name}`, { status: 'running' })
  await grant('red', allow(toTenant, adapter('red')))
  await grant('blue', allow(toTenant, adapter('blue')))
})

/** A user whose bucket lies in the treatment arm, found by the published hash. */
async function userIn(arm: 'control' | 'treatment'): Promise<string> {
  for (let i = 0; ; i++) {
    const user = `u${round}-${i}`
    const bytes = new TextEncoder().encode(JSON.stringify(['acme', 'user', user]))
    const hash = await crypto.subtle.digest('SHA-256', bytes)
    const subject = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, '0')).join('')
    if (hashBucket(`acme/${name}`, subject) < 5000 === (arm === 'control')) return user
  }
}

describe('an experiment', () => {
  it('gives each subject the arm of its bucket, every time, and by any of its keys', async () => {
    const control = await userIn('control')
    const treatment = await userIn('treatment')
    for (const [user, expected] of [
      [control, digest('1')],
      [treatment, digest('2')],
    ] as const) {
      const keys = [await mintFor(user), (await house.mint('acme', { user })).key]
      for (const key of [...keys, ...keys]) expect(await textOf(key)).toBe(expected)
    }
    expect(await rowsOf('assignments')).toHaveLength(2)
  })

  it('buckets on the key where there is no user, and never on what a caller sends', async () => {
    const { key } = await house.mint('acme')
    const first = await textOf(key)
    for (const ip of ['1.1.1.1', '2.2.2.2']) {
      const { response, finish } = await house.open('/v1/completions', {
        method: 'POST',
        headers: {
          authorization: `Bearer ${key}`,
          'content-type': 'application/json',
          'cf-connecting-ip': ip,
          'x-user-id': ip,
          'user-agent': ip,
        },
        body: JSON.stringify({ model: name, prompt: 'x' }),
      })
      expect((await response.json<{ choices: { text: string }[] }>()).choices[0]?.text).toBe(first)
      await finish()
    }
    expect(await rowsOf('assignments')).toHaveLength(1)
  })

  it('stays with an assignment that was written, also against the hash', async () => {
    const user = await userIn('treatment')
    const key = await mintFor(user)
    await textOf(key)
    const [row] = await rowsOf('assignments')
    await env.DB.prepare('DELETE FROM assignments WHERE experiment_id = ?').bind(name).run()
    await env.DB.prepare("INSERT INTO assignments VALUES ('acme', ?, 1, ?, 'control', 0)")
      .bind(name, row?.subject)
      .run()
    // What was read of the old row, which nothing but a hand in the database takes away, goes with the registry.
    await house.admin('PUT', '/tenants/acme/roles/another', {})
    expect(await textOf(key)).toBe(digest('1'))
  })

  it('writes one assignment where many first requests arrive at once', async () => {
    const key = await mintFor(await userIn('treatment'))
    const texts = await Promise.all(Array.from({ length: 8 }, () => textOf(key)))
    expect(new Set(texts)).toEqual(new Set([digest('2')]))
    expect(await rowsOf('assignments')).toHaveLength(1)
    expect(await rowsOf('exposures')).toHaveLength(1)
  })

  it('holds an assignment to be written once in the database too', async () => {
    await textOf(await mintFor(await userIn('control')))
    const update = env.DB.prepare("UPDATE assignments SET arm_id = 'treatment' WHERE experiment_id = ?")
      .bind(name)
      .run()
    await expect(update).rejects.toThrow('assignments are write-once')
  })

  it('records one exposure per subject, with the arms and the request', async () => {
    const key = await mintFor(await userIn('treatment'))
    for (let i = 0; i < 3; i++) await textOf(key)
    const rows = (await house.admin('GET', `/tenants/acme/experiments/${name}/exposures`)).json.data
    expect(rows).toHaveLength(1)
    expect(rows[0]).toMatchObject({ assignedArmId: 'treatment', servedArmId: 'treatment', analysed: true })
    const usage = (await house.admin('GET', '/tenants/acme/usage')).json.data
    expect(usage.filter((row) => row.experimentId === name)).toHaveLength(3)
  })

  it('re-authorises: a revoked arm falls back to the control and leaves the analysis for good', async () => {
    const key = await mintFor(await userIn('treatment'))
    expect(await textOf(key)).toBe(digest('2'))
    await grant('no-blue', deny(toTenant, adapter('blue')))
    expect(await textOf(key)).toBe(digest('1'))
    expect((await rowsOf('exposures'))[0]).toMatchObject({ assigned_arm_id: 'treatment', analysed: 0 })
    await house.admin('DELETE', '/tenants/acme/grants/no-blue')
    expect(await textOf(key)).toBe(digest('2'))
    expect((await rowsOf('exposures'))[0]).toMatchObject({ analysed: 0 })
    expect(house.backend.seen.map((seen) => seen.claims.adapter)).toEqual([digest('2'), digest('1'), digest('2')])
  })

  it('is not found where neither the arm nor the control is granted, and then nothing is written', async () => {
    const key = await mintFor(await userIn('treatment'))
    await grant('no-blue', deny(toTenant, adapter('blue')))
    await grant('no-red', deny(toTenant, adapter('red')))
    expect(await textOf(key)).toBe(404)
    expect(await house.models(key)).not.toContain(name)
    expect(await rowsOf('assignments')).toHaveLength(0)
    expect(await rowsOf('exposures')).toHaveLength(0)
    await house.admin('DELETE', '/tenants/acme/grants/no-blue')
    await house.admin('DELETE', '/tenants/acme/grants/no-red')
  })

  it('never serves an arm that a subject is not assigned to for want of the control', async () => {
    const key = await mintFor(await userIn('control'))
    await grant('no-red', deny(toTenant, adapter('red')))
    expect(await house.models(key)).not.toContain(name)
    expect(await textOf(key)).toBe(404)
    expect(await rowsOf('exposures')).toHaveLength(0)
    const other = await mintFor(await userIn('treatment'))
    expect(await house.models(other)).toContain(name)
    expect(await textOf(other)).toBe(digest('2'))
    await house.admin('DELETE', '/tenants/acme/grants/no-red')
  })

  it('serves the control to everybody, without exposures, while it does not run', async () => {
    const key = await mintFor(await userIn('treatment'))
    for (const status of ['draft', 'stopped']) {
      await house.admin('PATCH', `/tenants/acme/experiments/${name}`, { status })
      expect(await textOf(key)).toBe(digest('1'))
    }
    expect(await rowsOf('exposures')).toHaveLength(0)
  })

  it('may compare an adapter with the bare base', async () => {
    await house.admin('PUT', `/tenants/acme/experiments/${name}-b`, {
      arms: [
        { id: 'control', weight: 0, adapter: 'red' },
        { id: 'bare', weight: 10_000, base: BASE },
      ],
    })
    await house.admin('PUT', `/tenants/acme/models/${name}`, { experiment: `${name}-b` })
    await house.admin('PATCH', `/tenants/acme/experiments/${name}-b`, { status: 'running' })
    const { key } = await house.mint('acme')
    await grant('base', allow(toTenant, base))
    expect(await textOf(key)).toBe('base')
    await house.admin('DELETE', '/tenants/acme/grants/base')
    expect(await textOf(key)).toBe(digest('1'))
  })

  it('refuses weights that do not sum to 10,000, repeated arms, and changes after it was made', async () => {
    const put = (arms: object[], id = `${name}-x`) =>
      house.call('PUT', `/admin/tenants/acme/experiments/${id}`, house.adminKey, { arms })
    const arm = (id: string, weight: number) => ({ id, weight, adapter: 'red' })
    expect((await put([arm('a', 5000), arm('b', 4999)])).status).toBe(400)
    expect((await put([arm('a', 5000), arm('a', 5000)])).status).toBe(400)
    expect((await put([arm('a', 0.5), arm('b', 9999.5)])).status).toBe(400)
    const changed = await put([arm('control', 1000), { id: 'treatment', weight: 9000, adapter: 'blue' }], name)
    expect([changed.status, changed.json.error.code]).toEqual([400, 'immutable'])
  })
})
