// What only Cloudflare has: rate-limit bindings in front of the gateway, and a D1 whose replicas may answer an admin.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, createHouse, type House, seed, toTenant } from './house.ts'

/** What one host alone has is a test of that host, not one that the other skips. */
const isWorkerd = navigator.userAgent === 'Cloudflare-Workers'
let house: House
let key: { id: string; key: string }
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

describe('the flood guard', () => {
  const open = async (bindings: object, credential: string, address?: string) => {
    const headers = { authorization: `Bearer ${credential}`, ...(address && { 'cf-connecting-ip': address }) }
    const { response, finish } = await house.open('/v1/models', { headers }, { ...env, ...bindings })
    const text = await response.text()
    await finish()
    return { status: response.status, wait: response.headers.get('retry-after'), text }
  }
  const bound = (most: number) => {
    const counts = new Map<string, number>()
    const asked: string[] = []
    return {
      asked,
      limit: async ({ key: name }: { key: string }) => {
        asked.push(name)
        counts.set(name, (counts.get(name) ?? 0) + 1)
        return { success: (counts.get(name) ?? 0) <= most }
      },
    }
  }

  it('bounds an address before its key is looked at, and costs no query', async () => {
    const FLOOD_BY_ADDRESS = bound(2)
    const DB = {
      prepare() {
        throw new Error('the database was asked')
      },
    }
    expect((await open({ FLOOD_BY_ADDRESS }, key.key, '192.0.2.1')).status).toBe(200)
    expect((await open({ FLOOD_BY_ADDRESS }, 'nonsense', '192.0.2.1')).status).toBe(401)
    const third = await open({ FLOOD_BY_ADDRESS, DB }, key.key, '192.0.2.1')
    expect([third.status, third.wait, JSON.parse(third.text).error.code]).toEqual([429, '10', 'rate_limit_exceeded'])
    expect((await open({ FLOOD_BY_ADDRESS }, key.key, '192.0.2.2')).status).toBe(200)
  })

  it('bounds a key once it is proven: a wrong secret uses up nothing of it', async () => {
    const FLOOD_BY_KEY = bound(1)
    const [head, , secret = ''] = [key.key.slice(0, key.key.lastIndexOf('_')), '', key.key.split('_')[3]]
    const forged = `${head.replace(secret, [...secret].reverse().join(''))}_000000`
    for (let i = 0; i < 3; i++) expect((await open({ FLOOD_BY_KEY }, forged)).status).toBe(401)
    expect(FLOOD_BY_KEY.asked).toEqual([])
    expect((await open({ FLOOD_BY_KEY }, key.key)).status).toBe(200)
    expect((await open({ FLOOD_BY_KEY }, key.key)).status).toBe(429)
    expect(new Set(FLOOD_BY_KEY.asked)).toEqual(new Set([key.id]))
  })

  it('lets through where the binding fails, and the log says so', async () => {
    const FLOOD_BY_ADDRESS = { limit: () => Promise.reject(new Error('internal')) }
    expect((await open({ FLOOD_BY_ADDRESS }, key.key, '192.0.2.1')).status).toBe(200)
    expect(house.logged().some((line) => line.includes('"event":"flood.unchecked"'))).toBe(true)
  })

  if (isWorkerd)
    it('is bound as wrangler.toml says, by the real binding', async () => {
      const bindings = env as unknown as Record<string, { limit(of: { key: string }): Promise<{ success: boolean }> }>
      const [address, ofKey] = [bindings.FLOOD_BY_ADDRESS, bindings.FLOOD_BY_KEY]
      expect(await address?.limit({ key: '192.0.2.9' })).toEqual({ success: true })
      let passed = 0
      while ((await ofKey?.limit({ key: 'one' }))?.success) passed += 1
      expect(passed).toBe(1_000)
      expect(await ofKey?.limit({ key: 'another' })).toEqual({ success: true })
    })
})

describe('a read of an admin', () => {
  const get = async (bookmark?: string, bindings: object = env) => {
    const headers = { authorization: `Bearer ${house.adminKey}`, ...(bookmark && { 'x-sidepath-bookmark': bookmark }) }
    const { response, finish } = await house.open('/admin/tenants', { headers }, bindings)
    const text = await response.text()
    await finish()
    return { status: response.status, bookmark: response.headers.get('x-sidepath-bookmark'), text }
  }

  it('asks the primary unless it says how new its answer must be; what authorises and what writes always does', async () => {
    const began: string[] = []
    const DB = {
      prepare: (sql: string) => env.DB.prepare(sql),
      batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
      withSession(constraint: string) {
        began.push(constraint)
        return { ...this, getBookmark: () => '00000001-00000002-00004e0f-0123456789abcdef0123456789abcdef' }
      },
    }
    const bindings = { ...env, DB }
    const first = await get(undefined, bindings)
    expect(first.status).toBe(200)
    await get(first.bookmark ?? '', bindings)
    await get('any', bindings)
    await house.call('PUT', '/admin/tenants/acme/roles/r1', house.adminKey, {}, bindings)
    expect(began).toEqual(['first-primary', first.bookmark, 'first-unconstrained', 'first-primary'])
    began.length = 0
    await house.call('GET', '/v1/models', key.key, undefined, bindings)
    await house.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'x' }, bindings)
    expect(began).toEqual([])
  })

  it('refuses a bookmark that is none', async () => {
    for (const bad of ['first-primary', 'x', '1'.repeat(500), "00000001-00000002'--"]) {
      expect((await get(bad)).status).toBe(400)
    }
  })

  if (isWorkerd)
    it('with the bookmark of a change sees it, on a real D1', async () => {
      const written = await house.call('PUT', '/admin/tenants/acme/roles/r2', house.adminKey, {})
      const bookmark = written.headers.get('x-sidepath-bookmark')
      const read = await get(bookmark ?? undefined)
      expect([read.status, read.text.includes('acme')]).toEqual([200, true])
    })

  if (!isWorkerd)
    it('on Node has no bookmark, and takes any', async () => {
      expect(await get('00000001-00000002-00004e0f-0123456789abcdef0123456789abcdef')).toMatchObject({
        status: 200,
        bookmark: null,
      })
    })
})
