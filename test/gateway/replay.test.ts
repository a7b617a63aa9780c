// Receipts: every decision can be made again from its record, what was tampered with shows, and so does what has changed.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { type Decided, decidedOf } from '../../gateway/usage/decided.ts'
import type { Facts } from '../../gateway/usage/facts.ts'
import { changedFacts, replayDecision } from '../../gateway/usage/replay-decision.ts'
import { adapter, allow, base, createHouse, deny, type House, seed, toTenant } from './house.ts'

let house: House
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  for (const id of ['red', 'blue']) await house.admin('PUT', `/tenants/acme/grants/${id}`, allow(toTenant, adapter(id)))
  await house.admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
})

type Fetched = Decided & { readonly receipt: string; readonly facts: string; readonly now: string | null }
const fetchRecord = async (receipt: string | null) =>
  (await house.admin('GET', `/receipts/${receipt}`)).json as unknown as Fetched
const recordOf = async (key: string, model: string) => {
  const reply = await house.ask(key, model)
  expect(reply.status).toBe(200)
  return fetchRecord(reply.headers.get('x-sidepath-receipt'))
}
const replay = (record: Fetched, facts = record.facts) => replayDecision(decidedOf(record), record.receipt, facts)
const changes = ({ facts, now }: Fetched) => changedFacts(JSON.parse(facts) as Facts, JSON.parse(now ?? '') as Facts)

describe('a receipt', () => {
  it('of an adapter, the base, a mix and an experiment replays to the same decision', async () => {
    await house.admin('PUT', '/tenants/acme/experiments/trial', {
      arms: [
        { id: 'a', weight: 5_000, adapter: 'red' },
        { id: 'b', weight: 5_000, base: base.digest },
      ],
    })
    await house.admin('PUT', '/tenants/acme/models/trial', { experiment: 'trial' })
    const { key } = await house.mint('acme')
    const records = []
    for (const model of ['red', 'plain', 'red*0.5+blue', 'trial']) records.push(await recordOf(key, model))
    await house.admin('PATCH', '/tenants/acme/experiments/trial', { status: 'running' })
    const arms = new Set<string | null>()
    for (let subject = 0; subject < 12; subject++) {
      const record = await recordOf((await house.mint('acme')).key, 'trial')
      arms.add(record.armId)
      records.push(record)
    }
    expect(arms).toEqual(new Set(['a', 'b']))
    for (const record of records) {
      expect([record.model, await replay(record)]).toEqual([record.model, { problems: [], sticky: false }])
      if (record.model !== 'trial') expect(changes(record)).toEqual([])
    }
  })

  it('shows each field of the record, and the facts, that were changed afterwards', async () => {
    const record = await recordOf((await house.mint('acme', { user: 'ada' })).key, 'red')
    for (const [field, value] of Object.entries(decidedOf(record))) {
      const other = typeof value === 'number' ? value + 1 : `${value}x`
      const { problems } = await replay({ ...record, [field]: other })
      expect([field, problems[0]]).toEqual([field, 'the record was changed: its digest is not the receipt'])
    }
    const facts = record.facts.replace('"effect":"allow"', '"effect":"deny"')
    expect((await replay(record, facts)).problems).toEqual([
      'the facts were changed: their digest is not the one in the record',
      'on these facts the request is refused',
    ])
  })

  it('names what has changed since, and still replays', async () => {
    const minted = await house.mint('acme', { user: 'ada' })
    const record = await recordOf(minted.key, 'red')
    await house.admin('PUT', '/tenants/acme/grants/no', deny({ kind: 'user', id: 'ada' }, adapter('red')))
    await house.admin('PUT', '/tenants/acme/roles/staff', { disabled: true })
    await house.admin('DELETE', '/tenants/acme/grants/red')
    const later = await fetchRecord(record.receipt)
    expect(await replay(later)).toEqual({ problems: [], sticky: false })
    expect(changes(later)).toEqual([
      'roles of the caller was [{"id":"staff","enabled":true}] and is [{"id":"staff","enabled":false}]',
      'grant red is gone or disabled',
      'grant no is new',
    ])
    await house.admin('DELETE', '/tenants/acme/grants/no')
    await house.admin('PUT', '/tenants/acme/roles/staff', {})
    await house.admin('PATCH', `/keys/${minted.id}`, { disabled: true })
    expect((await fetchRecord(record.receipt)).now).toBeNull()
  })

  it('says where an arm was assigned earlier and is not that of the bucket', async () => {
    const record = await recordOf((await house.mint('acme')).key, 'red')
    const facts = JSON.parse(record.facts) as Facts
    const target = (id: string) => ({ ...(facts.models[0]!.serves as { target: object }).target, id })
    const arms = [
      { id: 'a', weight: 10_000, target: target('red'), shadow: false, stopped: false },
      { id: 'b', weight: 0, target: target('red'), shadow: false, stopped: false },
    ]
    const whole = { coverage: 10_000, namespace: null, guardrails: [] }
    const experiment = { id: 'e', seed: 's', bucketVersion: 1, running: true, ...whole, arms }
    const models = [{ name: 'red', createdAt: 0, serves: { kind: 'experiment', experiment } }]
    const assigned = { ...record, armId: 'b', assignedArmId: 'b' }
    expect((await replay(assigned, JSON.stringify({ ...facts, models }))).sticky).toBe(true)
  })

  it('keeps the facts once for all that was decided on them, and for good', async () => {
    const { key } = await house.mint('acme')
    const count = async () => (await env.DB.prepare('SELECT count(*) AS n FROM facts').first<{ n: number }>())?.n ?? 0
    const before = await count()
    for (let i = 0; i < 3; i++) await house.ask(key, 'red')
    expect(await count()).toBe(before + 1)
    await expect(env.DB.prepare("UPDATE facts SET text = ''").run()).rejects.toThrow('write-once')
    await expect(env.DB.prepare('DELETE FROM facts').run()).rejects.toThrow('write-once')
  })
})
