// Money: integer prices, a cost per request that is fixed with its beginning, and budgets in it.
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { costOf, priceOf } from '../../gateway/limits/price.ts'
import { adapter, allow, BASE, base, createHouse, type House, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  for (const id of ['red', 'blue']) await house.admin('PUT', `/tenants/acme/grants/${id}`, allow(toTenant, adapter(id)))
  await house.admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
})
beforeEach(async () => {
  key = await house.mint('acme')
  house.backend.fail('one.test', 'none')
})

const price = (id: string, resource: object, promptPrice: number, completionPrice: number) =>
  house.admin('PUT', `/tenants/acme/prices/${id}`, { resource, promptPrice, completionPrice })
const costFrom = async (model: string, more: object = {}) => {
  const reply = await house.ask(key.key, model, more)
  expect(reply.status).toBe(200)
  const row = await env.DB.prepare('SELECT cost, charge FROM usage WHERE request_id = ?')
    .bind(reply.headers.get('x-request-id'))
    .first<{ cost: number | null; charge: string }>()
  return row?.cost
}

describe('the cost of a request', () => {
  it('is unknown without a price, which is not nothing', async () => {
    expect(await costFrom('red')).toBeNull()
  })

  it('is that of the adapter, else of its base; of a mix, of its dearest part', async () => {
    // The fake backend counts 7 and 3 tokens.
    await price('base', base, 1_000_000, 2_000_000)
    await price('red', adapter('red'), 10_000_000, 500_000)
    expect(await costFrom('red')).toBe(70 + 2)
    expect(await costFrom('blue')).toBe(7 + 6)
    expect(await costFrom('plain')).toBe(7 + 6)
    expect(await costFrom('red+blue')).toBe(70 + 6)
    expect(await costFrom('red', { stream: true })).toBe(70 + 2)
  })

  it('is at the bound where the tokens are unknown', async () => {
    house.backend.fail('one.test', 'no-usage')
    expect(await costFrom('blue', { max_tokens: 5 })).toBe(66 + 10)
  })

  it('is fixed with the beginning: a later price is about later requests', async () => {
    const { response, finish } = await house.open('/v1/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'blue', prompt: 'x', stream: true }),
    })
    await price('base', base, 9_000_000, 9_000_000)
    await response.text()
    await finish()
    const row = await env.DB.prepare('SELECT cost FROM usage WHERE request_id = ?')
      .bind(response.headers.get('x-request-id'))
      .first<{ cost: number }>()
    expect(row?.cost).toBe(7 + 6)
    await price('base', base, 1_000_000, 2_000_000)
  })

  it('is rounded up, exact for whatever a backend counts, and monotonic', () => {
    const count = fc.nat({ max: Number.MAX_SAFE_INTEGER })
    fc.assert(
      fc.property(fc.nat({ max: 1e9 }), fc.nat({ max: 1e9 }), count, count, (prompt, completion, p, c) => {
        const cost = costOf({ prompt, completion }, { promptTokens: p, completionTokens: c })
        const exact = BigInt(prompt) * BigInt(p) + BigInt(completion) * BigInt(c)
        if (cost === Number.MAX_SAFE_INTEGER) return exact > BigInt(cost - 1) * 1_000_000n
        return BigInt(cost) * 1_000_000n >= exact && (BigInt(cost) - 1n) * 1_000_000n < exact
      }),
    )
  })

  it('of a mix with a part without a price is unknown', () => {
    const part = (id: string) => ({
      adapter: {
        kind: 'adapter',
        tenantId: 'acme',
        id,
        digest: id,
        baseDigest: BASE,
        enabled: true,
        tags: [],
      } as const,
      weight: 1,
      grantId: 'g',
    })
    const prices = { adapters: new Map([['red', { prompt: 1, completion: 1 }]]), bases: new Map() }
    const mix = { kind: 'mix', baseDigest: BASE, parts: [part('red'), part('blue')] } as const
    expect(priceOf(prices, mix)).toBeNull()
  })
})

describe('a budget in money', () => {
  it('counts what requests cost, and then refuses', async () => {
    await house.admin('PUT', '/tenants/acme/limits/money', {
      scope: { kind: 'key', id: key.id },
      metric: 'cost',
      window: 'day',
      // One bound of 66 and 2 × 5 fits, and after the 13 of the first request a second; after 26 none.
      amount: 101,
    })
    const ask = async () => (await house.ask(key.key, 'blue', { max_tokens: 5 })).status
    expect([await ask(), await ask(), await ask()]).toEqual([200, 200, 429])
    const { data } = (await house.admin('GET', '/tenants/acme/limits/money/windows')).json
    expect(data).toMatchObject([{ used: 26, held: 0 }])
  })

  it('does not let pass what has no price', async () => {
    await house.admin('DELETE', '/tenants/acme/prices/base')
    await house.admin('PUT', '/tenants/acme/limits/money-2', {
      scope: { kind: 'key', id: key.id },
      metric: 'cost',
      window: 'day',
      amount: 1_000_000,
    })
    const reply = await house.ask(key.key, 'blue')
    expect([reply.status, reply.json.error.code]).toEqual([503, 'price_missing'])
    expect((await house.ask(key.key, 'red')).status).toBe(200)
  })

  it('refuses two prices for one thing, and a change of what a price is of', async () => {
    const put = (id: string, resource: object) =>
      house.call('PUT', `/admin/tenants/acme/prices/${id}`, house.adminKey, {
        resource,
        promptPrice: 1,
        completionPrice: 1,
      })
    expect((await put('red-again', adapter('red'))).json.error.code).toBe('already_exists')
    expect((await put('red', adapter('blue'))).json.error.code).toBe('immutable')
    expect((await put('ghost', adapter('ghost'))).json.error.code).toBe('unknown_reference')
  })
})
