// Mixes of public names: what may be spelt, what reaches the signed capability, and that a part is never more than its name.
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { parseModel } from '../../gateway/infer/parse-model.ts'
import { type Model, mayDispatch, type Policy } from '../../gateway/policy/policy.ts'
import { type Capability, MAX_MIX_PARTS } from '../../gpu-backend/contract.ts'
import { adapter, allow, BASE, base, createHouse, deny, digest, type House, seed, toTenant } from './house.ts'

let house: House
let key: string
let keyId: string

beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  const { admin } = house
  const register = (id: string, more: object) =>
    admin('PUT', `/tenants/acme/adapters/${id}`, { name: id, version: 1, base: BASE, ...more })
  await register('same', { digest: digest('1') })
  await register('denied', { digest: digest('5') })
  await register('ungranted', { digest: digest('6') })
  await admin('PUT', `/bases/${digest('c')}`, {})
  await register('far', { digest: digest('7'), base: digest('c') })
  for (const id of ['same', 'denied', 'ungranted', 'far']) {
    await admin('PUT', `/tenants/acme/models/${id}`, { adapter: id })
  }
  await admin('PUT', '/tenants/acme/models/off', { adapter: 'red', disabled: true })
  const arms = [
    { id: 'a', weight: 5000, adapter: 'red' },
    { id: 'b', weight: 5000, adapter: 'blue' },
  ]
  await admin('PUT', '/tenants/acme/experiments/test', { arms })
  await admin('PATCH', '/tenants/acme/experiments/test', { status: 'running' })
  await admin('PUT', '/tenants/acme/models/test', { experiment: 'test' })
  for (const id of ['red', 'blue', 'same', 'denied', 'far']) {
    await admin('PUT', `/tenants/acme/grants/${id}`, allow(toTenant, adapter(id)))
  }
  await admin('PUT', '/tenants/acme/grants/plain', allow(toTenant, base))
  await admin('PUT', '/tenants/acme/grants/no', deny(toTenant, adapter('denied')))
  ;({ key, id: keyId } = await house.mint('acme', { user: 'ada' }))
})

const claimsAfter = async (model: string): Promise<Capability> => {
  const reply = await house.ask(key, model)
  expect([model, reply.status]).toEqual([model, 200])
  return house.backend.seen.at(-1)!.claims
}
const red = (weight: number) => ({ digest: digest('1'), weight })
const blue = (weight: number) => ({ digest: digest('2'), weight })

describe('a mix', () => {
  it('is signed as the digests and weights of its parts, and the body names none of them', async () => {
    const claims = await claimsAfter('red*0.7 + blue*0.3')
    expect(claims).toMatchObject({ adapter: [red(0.7), blue(0.3)], base: BASE, model: 'red*0.7+blue*0.3' })
    expect(house.backend.seen.at(-1)!.body).toEqual({ prompt: 'hi' })
  })

  it.each([
    ['red+blue', 'red+blue', [red(1), blue(1)]],
    ['  blue *2+red* -0.250000 ', 'blue*2+red*-0.25', [blue(2), red(-0.25)]],
    ['red*0.5', 'red*0.5', [red(0.5)]],
    ['red*000.000001+blue', 'red*0.000001+blue', [red(0.000001), blue(1)]],
    ['red*0.1 + same*0.2', 'red*0.1+same*0.2', [red(0.3)]],
    ['red + same*-1 + blue*3', 'red+same*-1+blue*3', [blue(3)]],
    ['red*0.25 + same*0.75', 'red*0.25+same*0.75', digest('1')],
  ])('%j has one spelling, and weights that add up by content', async (asked, model, adapter) => {
    expect(await claimsAfter(asked)).toMatchObject({ model, adapter })
  })

  it('of one part at weight 1 is that model, whatever it serves', async () => {
    for (const name of ['red', 'plain', 'test']) {
      const { adapter, model } = await claimsAfter(` ${name} * 1.0`)
      expect([model, adapter]).toEqual([name, (await claimsAfter(name)).adapter])
    }
  })

  it('is on record by its name and part by part, in whole answers, in streams and by its receipt', async () => {
    for (const stream of [false, true]) {
      const reply = await house.ask(key, 'red*0.7 + blue*0.3', { stream })
      expect(reply.text).toContain('"model":"red*0.7+blue*0.3"')
      const row = (await house.admin('GET', `/receipts/${reply.headers.get('x-sidepath-receipt')}`)).json
      expect(row).toMatchObject({ model: 'red*0.7+blue*0.3', status: 'settled', adapterId: null, grantId: 'red' })
      expect(row).toMatchObject({
        mix: [
          { adapter: 'red', digest: digest('1'), weight: 0.7, grant: 'red' },
          { adapter: 'blue', digest: digest('2'), weight: 0.3, grant: 'blue' },
        ],
      })
    }
  })

  it('is not listed, and is explained part by part', async () => {
    expect((await house.models(key)).filter((name) => /[*+]/.test(name))).toEqual([])
    const { json } = await house.admin('POST', '/explain', { key: keyId, model: 'red*0.7+denied*0.3' })
    expect(json.model).toBe('known')
    const parts = (json.targets as readonly unknown[] as { part: string; decision: object }[]).map((found) => [
      found.part,
      found.decision,
    ])
    expect(Object.fromEntries(parts)).toEqual({
      red: { allowed: true, grantId: 'red' },
      denied: { allowed: false, reason: 'denied', grantId: 'no' },
    })
  })
})

describe('a mix with a part that may not be used', () => {
  it('is not found, in the same bytes as a model that does not exist', async () => {
    const unknown = await house.ask(key, 'nothing')
    expect(unknown.status).toBe(404)
    const before = house.backend.seen.length
    for (const part of ['denied', 'ungranted', 'nothing', 'off', 'zeta-only', 'plain', 'test', 'constructor']) {
      // Nor does what is wrong with the rest depend on such a part.
      for (const model of [
        `red*0.7+${part}*0.3`,
        `${part}*0.3+red*0.7`,
        `${part}*0.5`,
        `far+${part}`,
        `red+${part}+same*-1`,
      ]) {
        for (const stream of [false, true]) {
          const reply = await house.ask(key, model, { stream })
          expect([model, reply.status, reply.text]).toEqual([model, 404, unknown.text])
        }
      }
    }
    expect(house.backend.seen.length).toBe(before)
  })

  it('is refused in words where its parts may be used and do not fit together', async () => {
    for (const model of ['red+far', 'red+same*-1']) {
      const reply = await house.ask(key, model)
      expect([reply.status, reply.json.error.code, reply.json.error.param]).toEqual([400, 'invalid_mix', 'model'])
    }
  })
})

describe('the spelling of a mix', () => {
  const many = (count: number) => Array.from({ length: count }, (_, at) => `n${at}`).join('+')

  it.each([
    'red*',
    '*0.5',
    'red*0',
    'red*-0.0',
    'red*0.0000001',
    'red*1e3',
    'red*NaN',
    'red*Infinity',
    'red*101',
    'red*1000',
    'red**2',
    'red*0.5*0.5',
    'red+',
    '+',
    'red+ +blue',
    'red*0.7+red*0.3',
    're d*0.5',
    'red/x*0.5',
    'red*.5',
    'red*5.',
    'red\n*0.5',
    'red*٣',
    many(MAX_MIX_PARTS + 1),
  ])('%j is refused by it alone', async (model) => {
    // Even for a key without any model.
    const { key: stranger } = await house.mint('zeta')
    const reply = await house.ask(stranger, model)
    expect([reply.status, reply.json.error.code, reply.json.error.param]).toEqual([400, 'invalid_mix', 'model'])
  })

  it('may have as many parts as fit the capability, with the longest names and weights', async () => {
    expect(parseModel(many(MAX_MIX_PARTS)).mix).toHaveLength(MAX_MIX_PARTS)
    const longest = Array.from({ length: MAX_MIX_PARTS }, (_, at) => `${at}${'n'.repeat(127)}*-99.999999`).join('+')
    expect((await house.ask(key, longest)).status).toBe(404)
  })

  it('is a fixed point: what is spelt once is spelt the same again', () => {
    const part = fc.tuple(fc.constantFrom('a', 'b.1', 'c:x', '7'), fc.integer({ min: -100_000_000, max: 100_000_000 }))
    const parts = fc.uniqueArray(part, { minLength: 1, maxLength: 4, selector: ([name]) => name })
    fc.assert(
      fc.property(parts, (list) => {
        fc.pre(list.every(([, steps]) => steps !== 0))
        const once = parseModel(list.map(([name, steps]) => `${name} * ${(steps / 1e6).toFixed(6)}`).join(' + '))
        expect(parseModel(once.name)).toEqual(once)
        if (once.mix !== null) {
          expect(once.mix).toEqual(list.map(([name, steps]) => ({ name, weight: steps / 1e6 })))
        }
      }),
    )
  })

  it('leaves every name without * and + as it is', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        fc.pre(!/[*+]/.test(text))
        expect(parseModel(text)).toEqual({ name: text, mix: null })
      }),
    )
  })
})

describe('the last question before dispatch', () => {
  const target = (id: string) => ({
    kind: 'adapter' as const,
    tenantId: 'acme',
    id,
    digest: digest(id),
    baseDigest: BASE,
    enabled: true,
    tags: [],
  })
  const policy: Policy = {
    subject: { tenantId: 'acme', keyId: 'k', userId: null, groups: [], roles: [], scopes: null },
    registry: {
      tenantId: 'acme',
      maxTokens: 1,
      backends: new Map(),
      experiments: new Map(),
      limits: new Map(),
      prices: { adapters: new Map(), bases: new Map() },
      models: new Map(
        ['1', '2', '3'].map((id): [string, Model] => [
          `m${id}`,
          { name: `m${id}`, createdAt: 0, serves: { kind: 'target', target: target(id) } },
        ]),
      ),
    },
    grantsAbout: () =>
      ['1', '2'].map((id) => ({
        tenantId: 'acme',
        id,
        effect: 'allow' as const,
        actions: ['infer' as const],
        principal: { kind: 'tenant' as const },
        resource: { kind: 'adapter' as const, id },
        startsAt: null,
        endsAt: null,
      })),
  }
  const ask = (model: string, ids: readonly string[]) =>
    mayDispatch(policy, { model, base: BASE, adapter: ids.map((id) => ({ digest: digest(id), weight: 0.5 })) }, 0)

  it('is yes for the digests that the names lead to and are granted, and for no others', () => {
    expect(ask('m1*0.5+m2*0.5', ['1', '2'])).toBe(true)
    expect(ask('m1*0.5+m3*0.5', ['1', '3'])).toBe(false)
    expect(ask('m1*0.5+m2*0.5', ['1', '3'])).toBe(false)
    expect(ask('m1*0.5', ['1', '2'])).toBe(false)
    expect(ask('m1', ['1'])).toBe(false)
    expect(ask('m1*0.5+m2*0.5', [])).toBe(false)
  })
})
