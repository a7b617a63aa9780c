// `auto` and adapters by version: what a public name leads to, for this caller.
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, createHouse, deny, digest, type House, seed, toTenant } from './house.ts'

let house: House
const put = (model: string, body: object) => house.admin('PUT', `/tenants/acme/models/${model}`, body)

beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  await put('red', { adapter: 'red', autoRank: 2 })
  await put('blue', { adapter: 'blue', autoRank: 1 })
})

async function mintWith(...adapters: string[]) {
  const { id, key } = await house.mint('acme')
  for (const name of adapters) {
    await house.admin(
      'PUT',
      `/tenants/acme/grants/${id.toLowerCase()}-${name}`,
      allow({ kind: 'key', id }, adapter(name)),
    )
  }
  return { id, key }
}

describe('auto', () => {
  it('is the first by rank of what the caller may use, and is answered under its own name', async () => {
    for (const [granted, expected, name] of [
      [['red', 'blue'], '2', 'blue'],
      [['red'], '1', 'red'],
    ] as const) {
      const { key } = await mintWith(...granted)
      const reply = await house.ask(key, 'auto')
      expect(reply.json.choices[0].text).toBe(digest(expected))
      expect(reply.json.model).toBe(name)
      const [used] = (await house.admin('GET', '/tenants/acme/usage?limit=1')).json.data
      expect(used).toMatchObject({ model: name })
      expect(await house.models(key)).toContain('auto')
    }
  })

  it('does not exist for who may use none of them, with the bytes of a model that does not', async () => {
    const { key } = await mintWith()
    const [auto, unknown] = [await house.ask(key, 'auto'), await house.ask(key, 'no-such')]
    expect([auto.status, auto.text]).toEqual([404, unknown.text])
    expect(await house.models(key)).toEqual([])
    const stranger = await house.mint('zeta')
    expect((await house.ask(stranger.key, 'auto')).status).toBe(404)
  })

  it('passes over a model that is disabled or denied', async () => {
    const { id, key } = await mintWith('red', 'blue')
    await put('blue', { adapter: 'blue', autoRank: 1, disabled: true })
    expect((await house.ask(key, 'auto')).json.choices[0].text).toBe(digest('1'))
    await put('blue', { adapter: 'blue', autoRank: 1 })
    await house.admin('PUT', '/tenants/acme/grants/no-blue', deny({ kind: 'key', id }, adapter('blue')))
    expect((await house.ask(key, 'auto')).json.choices[0].text).toBe(digest('1'))
  })

  it('may lead to an experiment, and exposes the caller to it', async () => {
    const arms = [
      { id: 'a', weight: 0, adapter: 'red' },
      { id: 'b', weight: 10_000, adapter: 'blue' },
    ]
    await house.admin('PUT', '/tenants/acme/experiments/both', { arms })
    await house.admin('PATCH', '/tenants/acme/experiments/both', { status: 'running' })
    await put('both', { experiment: 'both', autoRank: 0 })
    const { key } = await mintWith('red', 'blue')
    const reply = await house.ask(key, 'auto')
    expect([reply.json.model, reply.json.choices[0].text]).toEqual(['both', digest('2')])
    expect((await house.admin('GET', '/tenants/acme/experiments/both/exposures')).json.data).toHaveLength(1)
    await put('both', { experiment: 'both' })
  })

  it('is explained: every model that would be tried, in order', async () => {
    const { id } = await mintWith('red')
    const { targets } = (await house.admin('POST', '/explain', { key: id, model: 'auto' })).json
    expect(targets).toMatchObject([
      { part: 'blue', decision: { allowed: false } },
      { part: 'red', decision: { allowed: true } },
    ])
  })

  it('is no part of a mix', async () => {
    const { key } = await mintWith('red', 'blue')
    expect((await house.ask(key, 'auto*0.5+red')).status).toBe(404)
  })

  it('is a model of that name, where the tenant has one', async () => {
    await put('auto', { base: BASE })
    const { key } = await mintWith('red', 'blue')
    expect((await house.ask(key, 'auto')).status).toBe(404)
    await house.admin('PUT', '/tenants/acme/grants/bare', allow(toTenant, { kind: 'base', digest: BASE }))
    expect((await house.ask(key, 'auto')).json.choices[0].text).toBe('base')
  })
})

describe('an adapter by its version', () => {
  it('is found by name and version of the tenant, and refused where there is none', async () => {
    await house.admin('PUT', '/tenants/acme/adapters/red-two', {
      name: 'red',
      version: 2,
      digest: digest('9'),
      base: BASE,
    })
    expect((await put('pinned', { adapter: 'red@2' })).json.adapterId).toBe('red-two')
    const { key } = await mintWith('red-two')
    expect((await house.ask(key, 'pinned')).json.choices[0].text).toBe(digest('9'))
    for (const wrong of ['red@3', 'green@1', 'red@0', 'red@', 'red@1.0']) {
      const reply = await house.call('PUT', '/admin/tenants/acme/models/pinned', house.adminKey, { adapter: wrong })
      expect(reply.status).toBe(400)
    }
  })
})
